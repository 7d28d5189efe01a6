"""Players learn together without touching each other; what all three adversarial generators do alike."""

from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.generators import load_generator, make_generator
from tenfold.anatomy.generators.interface import Budget, Generator
from tenfold.anatomy.sets import ImageSet, open_images
from tenfold.core.errors import InputError

from .conftest import GRID

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from torch import nn  # noqa: E402

from tenfold.anatomy.generators.adversarial import held, unrecorded  # noqa: E402

NAMES = ["vae-gan", "alpha-wgan", "ha-gan"]
LEARNERS = {
    "vae-gan": {"generator": {"generator"}, "encoder": {"encoder"}, "discriminator": {"discriminator"}},
    "alpha-wgan": {
        "generator": {"generator", "encoder"},
        "critic": {"critic"},
        "code_critic": {"code_critic"},
    },
    "ha-gan": {
        "generator": {"generator"},
        "discriminator": {"discriminator"},
        "encoder": {"encoder"},
        "summary": {"summary"},
    },
}


def _fit(name: str, heads: ImageSet, folder: Path, images: int = 4) -> Generator:
    made = make_generator(name, GRID, "miniature")
    made.fit(heads, folder, Budget(images, 2, seed=3), device="cpu", quiet=True)
    return made


@pytest.mark.parametrize("name", NAMES)
def test_each_loss_reaches_its_own_player_alone(name):
    """The gradient of each loss is nowhere but in the weights that learn from it, and there everywhere."""
    made = make_generator(name, GRID, "miniature")
    torch.manual_seed(0)
    players = made.build_players()
    losses = made.losses(players, torch.randn(3, 1, *GRID).clamp(-1, 1))
    assert set(losses) == set(LEARNERS[name])
    for number, (learner, loss) in enumerate(losses.items()):
        players.zero_grad()
        loss.backward(retain_graph=number + 1 < len(losses))
        for player, network in players.items():
            named = dict(network.named_parameters())
            reached = {of for of, weight in named.items() if weight.grad is not None and weight.grad.any()}
            if player in LEARNERS[name][learner]:  # biases before a norm, or of a difference, have none
                assert reached >= {of for of, weight in named.items() if weight.ndim > 1}, (learner, player)
            else:
                assert not reached, (learner, player)


@pytest.mark.parametrize("name", NAMES)
def test_players_of_the_paper_s_size_fit_together(name):
    """A step at 144 x 192 x 144, shapes alone."""
    made = make_generator(name, (144, 192, 144), "paper")
    with torch.device("meta"):
        players = made.build_players()
    assert set(players) == set(made.rates)
    losses = made.losses(players, torch.empty(2, 1, 144, 192, 144, device="meta"))
    torch.stack(list(losses.values())).sum().backward()
    assert all(weight.grad is not None for weight in players.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_every_player_has_a_rate_and_a_miniature_a_higher_one(name):
    with torch.device("meta"):
        paper, small = (make_generator(name, (144, 192, 144), size) for size in ("paper", "miniature"))
        given, higher = paper._groups(paper.build_players()), small._groups(small.build_players())
    assert [group["lr"] for group in given] == list(paper.rates.values())
    assert [group["lr"] for group in higher] == [8 * rate for rate in paper.rates.values()]


@pytest.mark.parametrize("name", NAMES)
def test_fit_sample_save_load(name, heads, tmp_path):
    """What was saved draws the same images; image i is the same whatever the count."""
    made = _fit(name, heads, tmp_path / "run")
    drawn = made.sample(3, seed=5)
    assert drawn.shape == (3, *GRID) and drawn.dtype == np.float32
    assert np.isfinite(drawn).all() and np.abs(drawn).max() <= 1
    assert np.array_equal(made.sample(1, seed=5)[0], drawn[0]) and not np.array_equal(drawn[0], drawn[1])
    made.save(tmp_path / "model", {"images": "heads"})
    again = load_generator(tmp_path / "model")
    assert (again.name, again.grid, again.size) == (name, GRID, "miniature")
    assert np.array_equal(again.sample(3, seed=5), drawn)


@pytest.mark.parametrize("name", NAMES)
def test_a_run_that_goes_on_ends_in_the_same_bits(name, heads, tmp_path):
    whole = _fit(name, heads, tmp_path / "whole").sample(1)
    _fit(name, heads, tmp_path / "parts", images=2)
    assert np.array_equal(_fit(name, heads, tmp_path / "parts").sample(1), whole)


def test_a_run_of_another_generator_or_other_images_is_kept(heads, tmp_path):
    _fit("vae-gan", heads, tmp_path / "run", images=2)
    with pytest.raises(InputError, match="holds another run: kind was 'vae-gan' and is now 'ha-gan'"):
        _fit("ha-gan", heads, tmp_path / "run", images=2)
    for number in range(2):
        (tmp_path / f"head_{number}.nii.gz").symlink_to(heads.paths[number])
    with pytest.raises(InputError, match="holds another run: images was"):
        _fit("vae-gan", open_images(tmp_path), tmp_path / "run", images=2)


def test_nothing_is_drawn_before_learning(tmp_path):
    made = make_generator("vae-gan", GRID, "miniature")
    for ask in (lambda: made.sample(1), lambda: made.save(tmp_path / "model", {})):
        with pytest.raises(InputError, match="vae-gan: has not learned yet"):
            ask()


def test_weights_of_another_kind_are_refused(heads, tmp_path):
    _fit("vae-gan", heads, tmp_path / "run", images=2).save(tmp_path / "model", {})
    config = tmp_path / "model/config.json"
    config.write_text(config.read_text().replace("vae-gan", "alpha-wgan"))
    with pytest.raises(InputError, match="does not fit the model"):
        load_generator(tmp_path / "model")


def test_what_is_held_passes_gradients_on_and_learns_again_afterwards():
    layer, given = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
    with held(layer):
        layer(given).sum().backward()
    assert layer.weight.grad is None and torch.equal(given.grad, layer.weight)
    layer(given).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("name", ["vae-gan", "alpha-wgan"])
def test_norms_keep_for_drawing_what_the_prior_gives(name):
    """Codes far from the prior leave no trace: the first norm's mean is that of the linear layer on the prior."""
    made = make_generator(name, GRID, "miniature")
    torch.manual_seed(0)
    players = made.build_players()
    seen = []
    players["generator"].start.register_forward_hook(lambda *answer: seen.append(answer[-1].detach()))
    made.losses(players, torch.randn(3, 1, *GRID).clamp(-1, 1))
    norm = players["generator"].norms[0]
    assert norm.num_batches_tracked == 1
    assert torch.allclose(norm.running_mean, 0.1 * seen[0].view(3, 64, -1).mean((0, 2)), atol=1e-6)


def test_norms_record_again_afterwards():
    norm = nn.BatchNorm3d(1)
    with unrecorded(norm):
        norm(torch.ones(2, 1, 2, 2, 2))
    assert norm.running_mean == 0
    norm(torch.ones(2, 1, 2, 2, 2))
    assert norm.running_mean == pytest.approx(0.1)
