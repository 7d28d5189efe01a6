"""Label files: real ones are counted, broken ones are refused with one line."""

from pathlib import Path

import nibabel
import numpy as np
import pytest

from tenfold.anatomy.labels import CORTICAL, STRUCTURES
from tenfold.anatomy.segmentations import count_labels, read_segmentations
from tenfold.core.errors import InputError

PARC = "t1/sample2_desc-synthsegparc_dseg.nii.gz"


def write_labels(path: Path, labels: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nibabel.save(nibabel.Nifti1Image(labels, np.diag([2.0, 2, 2, 1]) if affine is None else affine), path)
    return path


def made_labels(seed: int = 0) -> np.ndarray:
    codes = [0, 2, 41, 3, 42, 4, 43, 10, 49, 16, 17, 53, 24]
    blocks = np.random.default_rng(seed).choice(codes, (3, 4, 3)).astype(np.int16)
    return blocks.repeat(4, 0).repeat(4, 1).repeat(4, 2)


def test_a_genuine_synthseg_parc_file_is_read(anatomy_data: Path) -> None:
    image = nibabel.load(anatomy_data / PARC)
    counts = np.bincount(np.asarray(image.dataobj).ravel())
    edge = abs(np.linalg.det(image.affine[:3, :3]))
    counted = count_labels(anatomy_data / PARC)
    assert len(counted) + 1 == 99 and sum(label >= 1000 for label in counted) == 68  # 99 with the background
    measured = read_segmentations(anatomy_data / PARC)
    assert measured.regions == tuple(one.name for one in STRUCTURES) and not measured.missing
    found = dict(zip(measured.regions, measured.volumes_SR[0], strict=True))
    for name, codes in (("hippocampus", [17, 53]), ("ctx-insula", [1035, 2035]), ("cerebral white matter", [2, 41])):
        assert found[name] == pytest.approx(counts[codes].sum() * edge / 2, rel=1e-12)
    assert found["brain-stem"] == pytest.approx(counts[16] * edge, rel=1e-12)
    assert found["cerebral cortex"] == pytest.approx(sum(found[one.name] for one in CORTICAL), rel=1e-12)
    assert measured.icv_S[0] == pytest.approx(counts[1:].sum() * edge, rel=1e-12)
    assert 1.1e6 < measured.icv_S[0] < 1.5e6


def test_real_label_maps_and_dlmuse_files_give_human_volumes(anatomy_data: Path) -> None:
    for pattern in ("labelmaps", "t1/sub-nc01_desc-dlmuse_dseg.nii.gz", "t1/IXI012-HH-1211_desc-dlmuse_dseg.nii.gz"):
        measured = read_segmentations(anatomy_data / pattern)
        found = dict(zip(measured.regions, measured.volumes_SR.T, strict=True))
        assert len(found) == 18 and len(measured.missing) == 34
        assert ((measured.icv_S > 1.1e6) & (measured.icv_S < 1.9e6)).all()
        assert ((found["thalamus"] > 4500) & (found["thalamus"] < 10_000)).all()
        assert ((found["hippocampus"] > 1500) & (found["hippocampus"] < 5500)).all()
        assert (np.abs(measured.asymmetry_SR[:, measured.regions.index("thalamus")]) < 0.25).all()
    assert measured.segmenter == "muse"


def test_volumes_do_not_depend_on_orientation(anatomy_data: Path, tmp_path: Path) -> None:
    image = nibabel.load(anatomy_data / "t1/IXI012-HH-1211_desc-dlmuse_dseg.nii.gz")
    turned = nibabel.as_closest_canonical(image)
    assert nibabel.aff2axcodes(image.affine) != nibabel.aff2axcodes(turned.affine)
    nibabel.save(turned, tmp_path / "turned.nii.gz")
    one = count_labels(anatomy_data / "t1/IXI012-HH-1211_desc-dlmuse_dseg.nii.gz")
    assert count_labels(tmp_path / "turned.nii.gz") == pytest.approx(one, rel=1e-6)


def test_a_structure_that_no_file_has_counts_as_nothing(tmp_path: Path) -> None:
    measured = read_segmentations(write_labels(tmp_path / "a.nii.gz", made_labels()))
    assert measured.volumes_SR[0, measured.regions.index("amygdala")] == 0


def test_the_voxel_size_is_given_for_files_that_have_none(tmp_path: Path) -> None:
    path = write_labels(tmp_path / "a.nii", made_labels(), np.eye(4))
    with pytest.raises(InputError, match="states no voxel size"):
        read_segmentations(path)
    sized = read_segmentations(write_labels(tmp_path / "b.nii", made_labels()))
    assert read_segmentations(path, 2.0).icv_S == pytest.approx(sized.icv_S, rel=1e-12)


def test_a_file_without_an_affine_needs_a_voxel_size_too(tmp_path: Path) -> None:
    """Both its codes are 0: what libraries make up then has voxels of 1 mm, whatever the brain's size."""
    nibabel.save(nibabel.Nifti1Image(made_labels(), None), tmp_path / "a.nii.gz")
    with pytest.raises(InputError, match="states no voxel size"):
        read_segmentations(tmp_path / "a.nii.gz")
    sized = read_segmentations(write_labels(tmp_path / "b.nii.gz", made_labels()))
    assert read_segmentations(tmp_path / "a.nii.gz", 2.0).icv_S == pytest.approx(sized.icv_S, rel=1e-12)


def test_freesurfers_own_format_is_read(tmp_path: Path) -> None:
    nibabel.save(nibabel.MGHImage(made_labels().astype(np.int32), np.diag([2.0, 2, 2, 1])), tmp_path / "a.mgz")
    assert count_labels(tmp_path / "a.mgz") == count_labels(write_labels(tmp_path / "b.nii", made_labels()))
    (tmp_path / "cut.mgz").write_bytes((tmp_path / "a.mgz").read_bytes()[:200])
    with pytest.raises(InputError, match=r"cut\.mgz: (is cut or damaged|cannot be read as an image)"):
        count_labels(tmp_path / "cut.mgz")


def test_a_voxel_size_that_the_affine_contradicts_is_refused(tmp_path: Path) -> None:
    """It is for files that state none, as with images; it must not make 8 mm³ of a sound file 27."""
    path = write_labels(tmp_path / "a.nii", made_labels())
    with pytest.raises(InputError, match="states voxels of 2 x 2 x 2 mm, not 3 x 3 x 3; leave the size out"):
        read_segmentations(path, 3.0)
    assert read_segmentations(path, 2.0).icv_S == read_segmentations(path).icv_S


def test_only_segmentations_are_read_from_a_folder_that_has_images_too(tmp_path: Path) -> None:
    (tmp_path / "sub-1").mkdir()
    write_labels(tmp_path / "sub-1/sub-1_dseg.nii.gz", made_labels())
    write_labels(
        tmp_path / "sub-1/sub-1_T1w.nii.gz", np.random.default_rng(0).normal(size=(5, 5, 5)).astype(np.float32)
    )
    assert read_segmentations(tmp_path).subjects == ("sub-1/sub-1_dseg",)


def broken(name: str, folder: Path, brain: Path) -> Path:
    path = folder / f"{name}.nii.gz"
    labels = made_labels()
    random = np.random.default_rng(0)
    if name == "cut":
        write_labels(path, random.integers(0, 60, (40, 40, 40)).astype(np.int16))
        path.write_bytes(path.read_bytes()[:3000])
    elif name == "nonsense":
        path.write_bytes(b"not an image at all")
    elif name == "huge":
        write_labels(folder / "huge.nii", labels)
        raw = bytearray((folder / "huge.nii").read_bytes())
        raw[42:48] = np.array([32767, 32767, 32767], np.int16).tobytes()
        path = folder / "huge.nii"
        path.write_bytes(raw)
    elif name == "brain":
        path = brain
    else:
        values = {
            "nan": np.where(labels == 2, np.nan, labels).astype(np.float32),
            "fractions": labels + np.float32(0.5),
            "negative": (labels - 5).astype(np.int16),
            "ct": (labels * 100 - 1024).astype(np.int16),
            "four": np.stack([labels] * 2, axis=-1),
            "two": labels[:, :, 0],
            "empty": np.zeros_like(labels),
            "unknown": np.full_like(labels, 9999),
        }[name]
        write_labels(path, values)
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("cut", "the file is cut"), ("nonsense", "is no NIfTI file"), ("huge", "more than any head has"),
        ("nan", "voxels are NaN or infinite"), ("fractions", "is it an image instead of its labels"),
        ("negative", "holds values from -5"), ("ct", "holds values from -1024"), ("four", "is 4D, 12 x 16 x 12 x 2"),
        ("two", "has 12 x 16 x 1 voxels"), ("empty", "the segmentation is empty"),
        ("unknown", "has labels of known structures"),
        ("brain", "is it an image instead of its labels"),
    ],
)  # fmt: skip
def test_a_broken_file_is_refused_with_one_line(name: str, message: str, tmp_path: Path, anatomy_data: Path) -> None:
    path = broken(name, tmp_path, anatomy_data / "t1/sub-nc01_desc-brain_T1w.nii.gz")
    with pytest.raises(InputError) as caught:
        read_segmentations(path)
    assert message in str(caught.value) and path.name in str(caught.value) and "\n" not in str(caught.value)


def test_files_of_two_numberings_and_empty_folders_are_refused(anatomy_data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="keep them apart"):
        read_segmentations(anatomy_data / "t1")
    with pytest.raises(InputError, match=r"has no \.nii"):
        read_segmentations(tmp_path)
    with pytest.raises(InputError, match="is not there"):
        read_segmentations(tmp_path / "nowhere")
