"""Images are read as they lie in the head, and bad files are refused with one line that says what to do."""

import gzip
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenfold.anatomy.images import read_image, read_mask, write_image
from tenfold.core.errors import InputError

AFFINE = np.array([[2.0, 0, 0, -20], [0, 2, 0, -30], [0, 0, 2, -10], [0, 0, 0, 1]])


def _noise(shape=(10, 12, 14)) -> np.ndarray:
    return np.random.default_rng(0).random(shape, np.float32)


def _save(path: Path, voxels: np.ndarray, affine: np.ndarray | None = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(voxels, affine), path)
    return path


def _refusal(path: Path, voxel_mm: float | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read_image(path, voxel_mm)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("dtype", ["uint8", ">i2", "float32", "float64"])
def test_voxels_and_affine_are_those_nibabel_reads(tmp_path, ending, kind, dtype):
    saved = kind((_noise() * 200).astype(dtype), AFFINE)
    nibabel.save(saved, tmp_path / f"a.{ending}")
    image = read_image(tmp_path / f"a.{ending}")
    np.testing.assert_allclose(image.voxels_XYZ, nibabel.load(tmp_path / f"a.{ending}").get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(image.affine, AFFINE)
    assert image.zooms == (2, 2, 2)


def test_scaling_of_stored_values_is_applied(tmp_path):
    saved = nibabel.Nifti1Image(_noise(), AFFINE)
    saved.set_data_dtype("int16")
    nibabel.save(saved, tmp_path / "a.nii.gz")
    np.testing.assert_allclose(read_image(tmp_path / "a.nii.gz").voxels_XYZ, _noise(), atol=1e-4)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PSR", "IAL", "SRP"])
def test_any_order_of_axes_gives_the_same_image(tmp_path, codes):
    original = nibabel.Nifti1Image(_noise(), AFFINE)
    turn = nibabel.orientations.axcodes2ornt(codes)
    nibabel.save(original.as_reoriented(nibabel.orientations.ornt_transform(
        nibabel.orientations.axcodes2ornt("RAS"), turn)), tmp_path / "a.nii.gz")  # fmt: skip
    image = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image.voxels_XYZ, _noise())
    np.testing.assert_allclose(image.affine, AFFINE)


def test_real_heads_stand_upright_though_stored_posterior_superior_right(anatomy_data):
    path = anatomy_data / "t1/IXI012-HH-1211_T1w.nii.gz"
    image, peer = read_image(path), nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_allclose(image.voxels_XYZ, peer.get_fdata(), rtol=1e-5)
    np.testing.assert_allclose(image.affine, peer.affine)
    mirrored = [np.corrcoef(image.voxels_XYZ.ravel(), np.flip(image.voxels_XYZ, axis).ravel())[0, 1] for axis in (0, 1)]
    assert mirrored[0] > mirrored[1] + 0.1  # mirrored left to right a head looks alike, front to back it does not


def test_every_real_t1_is_read_and_every_label_map_is_refused(anatomy_data):
    for path in sorted(anatomy_data.glob("t1/*_T1w.nii.gz"))[:6]:
        read_image(path)
    labels = [*sorted(anatomy_data.glob("t1/*_dseg.nii.gz"))[:6], *sorted(anatomy_data.glob("labelmaps/*"))[:3]]
    for path in labels:
        assert "label map" in _refusal(path)
        assert 0 < read_mask(path).voxels_XYZ.mean() < 0.7


@pytest.mark.parametrize("affine", [np.eye(4), None])
def test_a_file_without_a_voxel_size_needs_one(tmp_path, affine):
    path = _save(tmp_path / "generated_sample_0.nii.gz", _noise(), affine)
    assert "voxel size" in _refusal(path)
    image = read_image(path, 3.0)
    assert image.zooms == (3, 3, 3)
    np.testing.assert_allclose(image.affine @ [4.5, 5.5, 6.5, 1], [0, 0, 0, 1])


def test_a_qform_alone_is_read_as_the_standard_has_it(tmp_path):
    """Its first number, the hand of the axes, may be 0 for 1. What no standard has is refused as other damage is."""
    saved = nibabel.Nifti1Image(_noise(), AFFINE)
    saved.set_sform(AFFINE, code=0)
    saved.set_qform(AFFINE, code=1)
    plain = bytearray(saved.to_bytes())
    for hand in (1, 0):
        plain[76:80] = np.float32(hand).tobytes()
        (tmp_path / "a.nii").write_bytes(plain)
        np.testing.assert_allclose(read_image(tmp_path / "a.nii").affine, AFFINE)
    plain[80:84] = np.float32(-1).tobytes()
    (tmp_path / "a.nii").write_bytes(plain)
    assert "its header is damaged (pixdims[1,2,3] should be positive)" in _refusal(tmp_path / "a.nii")


def test_a_voxel_size_that_the_file_contradicts_is_refused(tmp_path):
    path = _save(tmp_path / "a.nii.gz", _noise())
    assert "not 1 x 1 x 1;" in _refusal(path, 1.0)
    assert read_image(path, 2.0).zooms == (2, 2, 2)


def test_a_volume_larger_than_any_head_is_refused(tmp_path):
    """Few voxels of 20 mm would become thousands of times as many of 3 mm."""
    path = _save(tmp_path / "a.nii.gz", _noise((64, 60, 62)), np.diag([20.0, 20, 20, 1]))
    assert "is 1280 x 1200 x 1240 mm large" in _refusal(path)
    assert "mm large" in _refusal(_save(tmp_path / "b.nii.gz", _noise(), None), 99.0)


def _bad_voxels() -> dict[str, tuple[np.ndarray, str]]:
    hole, endless, ct = _noise(), _noise(), np.random.default_rng(1).normal(30, 20, (10, 12, 14)).astype(np.float32)
    hole[3, 3, 3], endless[2, 2, 2], ct[:4], ct[8] = np.nan, -np.inf, -1000, 900
    return {
        "nan": (hole, "1 of 1680 voxels are NaN"),
        "inf": (endless, "NaN or infinite"),
        "4d": (_noise((10, 12, 14, 3)), "is 4D, 10 x 12 x 14 x 3"),
        "zero": (np.zeros((10, 12, 14), np.float32), "all zero"),
        "constant": (np.full((10, 12, 14), 0.3, np.float32), "0.3 everywhere"),
        "endless": (_noise() * np.float32(1e36), "e+35; it is damaged"),
        "ct": (ct, "as a CT has"),
        "slice": (_noise((64, 64, 1)), "at least 8"),
        "complex": (_noise().astype(np.complex64), "one number per voxel"),
    }


@pytest.mark.parametrize("kind", list(_bad_voxels()))
def test_bad_voxels_are_named(tmp_path, kind):
    voxels, said = _bad_voxels()[kind]
    assert said in _refusal(_save(tmp_path / "a.nii.gz", voxels))


def test_files_are_closed(tmp_path):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", ResourceWarning)
        for ending in ("nii", "nii.gz"):
            read_image(_save(tmp_path / f"a.{ending}", _noise()))
    assert not said


def test_an_empty_mask_is_named(tmp_path):
    with pytest.raises(InputError, match="mask is empty"):
        read_mask(_save(tmp_path / "a_mask.nii.gz", np.zeros((10, 12, 14), np.uint8)))


def test_cut_files_are_named(tmp_path):
    whole = _save(tmp_path / "a.nii.gz", _noise()).read_bytes()
    for length in (20, 200, len(whole) // 2, len(whole) - 3):
        (tmp_path / "cut.nii.gz").write_bytes(whole[:length])
        _refusal(tmp_path / "cut.nii.gz")
    plain = gzip.decompress(whole)
    (tmp_path / "cut.nii").write_bytes(plain[:-10])
    assert "the file is cut" in _refusal(tmp_path / "cut.nii")


def test_a_wrong_checksum_is_named(tmp_path):
    whole = bytearray(_save(tmp_path / "a.nii.gz", _noise()).read_bytes())
    whole[-6] ^= 255
    (tmp_path / "a.nii.gz").write_bytes(whole)
    assert "CRC" in _refusal(tmp_path / "a.nii.gz")


def test_sizes_in_the_header_are_not_believed(tmp_path):
    plain = bytearray(gzip.decompress(_save(tmp_path / "a.nii.gz", _noise()).read_bytes()))
    plain[42:48] = np.array([30000] * 3, "<i2").tobytes()
    (tmp_path / "huge.nii").write_bytes(plain)
    assert "30000 x 30000 x 30000" in _refusal(tmp_path / "huge.nii")
    plain[42:48] = np.array([700] * 3, "<i2").tobytes()
    (tmp_path / "big.nii").write_bytes(plain)
    assert "the file is cut" in _refusal(tmp_path / "big.nii")


def test_other_files_are_named(tmp_path):
    (tmp_path / "a.nii.gz").write_text("no image at all, but some text")
    assert "no NIfTI" in _refusal(tmp_path / "a.nii.gz")
    _refusal(tmp_path / "missing.nii.gz")
    _refusal(tmp_path)


@given(st.binary(max_size=344))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_damage_to_the_header_is_refused_or_read(tmp_path, noise):
    plain = nibabel.Nifti1Image(_noise(), AFFINE).to_bytes()
    (tmp_path / "b.nii").write_bytes(plain[:4] + noise + plain[4 + len(noise) :])
    try:
        read_image(tmp_path / "b.nii")
    except InputError as error:
        assert "\n" not in str(error)


def test_written_images_come_back_and_are_the_same_bytes(tmp_path):
    for name in ("a.nii.gz", "b.nii.gz"):
        write_image(tmp_path / name, _noise(), AFFINE)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    image = read_image(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(image.voxels_XYZ, _noise())
    np.testing.assert_allclose(image.affine, AFFINE)
