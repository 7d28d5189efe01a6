"""What a comparison of blocks returns; times themselves are not tested."""

from typing import Any

import pytest
import torch

from tenfold.attention.speed import compare_blocks
from tenfold.core.errors import InputError

pytestmark = pytest.mark.usefixtures("one_thread")


def test_every_mixer_is_timed_at_every_length() -> None:
    done: list[tuple[str, int, int]] = []
    found = compare_blocks(
        ("gsa", "softmax", "gla"), (8, 16), hidden_size=16, num_heads=2, repeats=1, progress=lambda *at: done.append(at)
    )
    assert [(one.mixer, one.tokens) for one in found] == [(m, n) for n in (8, 16) for m in ("gsa", "softmax", "gla")]
    for one in found:
        for median, least, most in (one.prefill, one.train, one.decode):
            assert 0 < least <= median <= most
    assert done == [("speed", 1, 2), ("speed", 2, 2)]


def test_state_grows_with_the_text_for_softmax_only() -> None:
    found = compare_blocks(("gsa", "gla", "softmax"), (8, 16), hidden_size=16, num_heads=2, repeats=1)
    sizes = {(one.mixer, one.tokens): one.state_bytes for one in found}
    assert sizes["gsa", 8] == sizes["gsa", 16] == 2 * 8 * 16 * 4, "2 M D float32"
    assert sizes["gla", 8] == sizes["gla", 16]
    assert sizes["softmax", 16] >= 2 * 16 * 16 * 4 > sizes["softmax", 8]


def test_the_callers_random_numbers_are_left_alone() -> None:
    before = torch.get_rng_state()
    compare_blocks(("gsa",), (4,), hidden_size=8, num_heads=2, repeats=1)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"lengths": ()}, "lengths"),
        ({"lengths": (4, 0)}, "lengths"),
        ({"repeats": 0}, "0 repeats"),
        ({"num_heads": 3}, "num_heads 3"),
        ({"num_heads": 0}, "num_heads is 0"),
    ],
)
def test_what_cannot_be_timed_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        compare_blocks(**{"mixers": ("gsa",), "lengths": (4,), "hidden_size": 8, "num_heads": 2} | change)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(InputError, match="no NVIDIA GPU"):
        compare_blocks(("gsa",), (4,), device="cuda")
