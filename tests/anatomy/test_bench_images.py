"""A bench with a segmenter takes images and generators as well as tables."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from tenfold.anatomy.bench import Bench  # noqa: E402
from tenfold.anatomy.generators.folder import FolderGenerator  # noqa: E402
from tenfold.anatomy.labels import QC_GROUPS  # noqa: E402
from tenfold.anatomy.lite import LiteSegmenter  # noqa: E402
from tenfold.anatomy.populations import make_people  # noqa: E402
from tenfold.anatomy.sets import open_images  # noqa: E402
from tenfold.core.errors import InputError  # noqa: E402

from .conftest import made_head  # noqa: E402


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets of three made people at 6 mm."""
    root = tmp_path_factory.mktemp("people")
    for seed, name in enumerate(("real", "others")):
        make_people([made_head()], root / name, 3, seed=seed, mm=6.0)
    return root


@pytest.fixture
def unscored() -> LiteSegmenter:
    """lite without QC scores, which these few coarse images would not pass."""
    segmenter = LiteSegmenter()
    segmenter.quality = None
    return segmenter


def test_folders_of_images_and_generators_are_segmented(people, unscored, tmp_path):
    """A folder, a set, and a generator with the same images give the same volumes, and land in the work folder."""
    bench = Bench(people / "real", segmenter=unscored, work=tmp_path, samples=3, replicates=2)
    others = people / "others"
    found = bench.evaluate({"folder": others, "set": open_images(others), "generator": FolderGenerator(others)})
    assert set(found.found) == {"folder", "set", "generator"}
    tables = [(tmp_path / f"{name}_segmented/volumes.tsv").read_text() for name in ("folder", "set", "generator")]
    numbers = [np.array([row.split("\t")[1:] for row in table.splitlines()[1:]], float) for table in tables]
    np.testing.assert_array_equal(numbers[0], numbers[1])
    np.testing.assert_allclose(numbers[0], numbers[2], rtol=1e-4)
    samples = open_images(tmp_path / "generator_samples")
    assert len(samples) == 3
    assert samples.processing == open_images(others).processing


def test_a_generator_that_has_failed_does_not_hold_up_the_others(people, tmp_path):
    """It makes NaN: all is rejected, and the verdict on the other one stands."""

    class Failed(FolderGenerator):
        def sample(self, count, seed=0, first=0):
            return np.full((count, *self.grid), np.nan, np.float32)

    segmenter = LiteSegmenter()
    segmenter.quality = lambda _: dict.fromkeys(QC_GROUPS, 0.9)  # coarse images would not pass
    bench = Bench(people / "real", segmenter=segmenter, work=tmp_path, samples=3, replicates=2)
    found = bench.evaluate({"failed": Failed(people / "others"), "others": people / "others"}).found
    assert found["failed"].verdict == "unreliable" and found["failed"].generated_gate.rejected == 1
    assert found["others"].regions


def test_images_without_a_segmenter_and_generators_without_images_are_refused(people, unscored, tmp_path):
    """One line says what is needed."""
    with pytest.raises(InputError, match="give the bench a segmenter"):
        Bench(open_images(people / "real")).evaluate({"mine": people / "others"})
    measured = Bench(people / "real", segmenter=unscored, work=tmp_path, replicates=2)
    table = tmp_path / "real_segmented/volumes.tsv"
    measured.evaluate({"others": people / "others"})
    with pytest.raises(InputError, match="give the bench real images"):
        Bench(table, segmenter=unscored, work=tmp_path).evaluate({"mine": FolderGenerator(people / "others")})
