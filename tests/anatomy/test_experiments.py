"""How the claims are measured, where a generator has failed."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from tenfold.anatomy.experiments import _not_blank, _segmented  # noqa: E402
from tenfold.anatomy.images import write_image  # noqa: E402
from tenfold.anatomy.labels import QC_GROUPS  # noqa: E402
from tenfold.anatomy.plausibility import compare  # noqa: E402
from tenfold.anatomy.sets import open_images  # noqa: E402

from .conftest import made_people  # noqa: E402
from .test_segmenters import Bright  # noqa: E402


def test_a_generator_of_blank_images_gets_a_verdict(tmp_path):
    """All of its images are rejected: unreliable, and no error; no image is left to look at."""
    for number in range(3):
        write_image(tmp_path / f"generated_sample_{number}.nii.gz", -np.ones((9, 9, 9), np.float32), np.diag([4.0] * 4))
    samples = open_images(tmp_path)
    assert len(_not_blank(samples)) == 0
    real = replace(made_people(20), qc_SG=np.full((20, 8), 0.9), groups=QC_GROUPS, segmenter="bright")
    measured = _segmented(samples, False, Bright(), tmp_path / "out", real, lambda *_: None)
    found = compare(real, measured, training=real)
    assert (found.verdict, found.generated_gate.rejected) == ("unreliable", 1.0)


def test_what_is_not_blank_is_kept(tmp_path):
    for number, voxels in enumerate((-np.ones((9, 9, 9)), np.random.default_rng(0).random((9, 9, 9)))):
        write_image(tmp_path / f"generated_sample_{number}.nii.gz", voxels.astype(np.float32), np.diag([4.0] * 4))
    assert _not_blank(open_images(tmp_path)).names == ("generated_sample_1",)
