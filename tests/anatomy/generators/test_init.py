"""Generators are found by name, come from their files when asked for, and folders say which they hold."""

import subprocess
import sys
from pathlib import Path

import pytest

from tenfold.anatomy.generators import GENERATORS, generator_class, load_generator, make_generator
from tenfold.core.errors import InputError

ADVERSARIAL = ("vae-gan", "alpha-wgan", "ha-gan")


def test_nothing_heavy_comes_with_the_names():
    code = "import sys, tenfold.anatomy.generators; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "tenfold.anatomy.generators" in loaded and not {"torch", "nibabel", "SimpleITK"} & set(loaded)


@pytest.mark.parametrize("name", GENERATORS)
def test_each_is_called_as_it_is_listed(name):
    pytest.importorskip("torch", reason="the extra anatomy is not installed")
    assert generator_class(name).name == name


def test_untrained_generators_are_made_by_name():
    pytest.importorskip("torch", reason="the extra anatomy is not installed")
    for name in ADVERSARIAL:
        made = make_generator(name, (36, 48, 36), "miniature")
        assert (made.name, made.grid, made.size) == (name, (36, 48, 36), "miniature")
    with pytest.raises(InputError, match="size is 'small'; choose paper or miniature"):
        make_generator("vae-gan", (36, 48, 36), "small")


def test_unknown_names_and_folders_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="generator 'gan': there is none; choose vae-gan, "):
        make_generator("gan", (36, 48, 36), "paper")
    with pytest.raises(InputError, match="no such file; name the folder of a saved generator"):
        load_generator(tmp_path)
    for text in ("{", "[]", "{}", "3"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match="states no kind of generator"):
            load_generator(tmp_path)
    (tmp_path / "config.json").write_text('{"kind": ["vae-gan"]}')
    with pytest.raises(InputError, match="there is none"):
        load_generator(tmp_path)
