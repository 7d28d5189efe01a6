"""Tables of all segmenters: found by name in any order, refused with one line."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tenfold.anatomy.labels import CORTICAL, ICV, QC_GROUPS, STRUCTURES
from tenfold.anatomy.tables import Measured, read_measured, write_measured
from tenfold.anatomy.volumes import combine_sides
from tenfold.core.errors import InputError

from .conftest import made_people


def synthseg_columns() -> list[str]:
    """The header of SynthSeg's table with --parc: 1 + 1 + 32 + 68 columns."""
    names = ["subject", ICV]
    for one in STRUCTURES[:18]:
        names += [f"left {one.name}", f"right {one.name}"] if "left" in one.freesurfer else [one.name]
    return names + [f"ctx-{side}-{one.name[4:]}" for side in ("lh", "rh") for one in CORTICAL]


def write_table(path: Path, header: list[str], rows: list[list[object]], delimiter: str = ",") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return path


@pytest.fixture
def synthseg(tmp_path: Path) -> tuple[Path, list[str], list[list[object]]]:
    header = synthseg_columns()
    random = np.random.default_rng(0)
    rows: list[list[object]] = [
        [f"sub-{i}_T1w.nii.gz", 1.4e6 + i, *random.uniform(500, 5000, len(header) - 2)] for i in range(4)
    ]
    write_table(tmp_path / "qc.csv", ["subject", *QC_GROUPS], [[row[0], *np.full(8, 0.8)] for row in rows[::-1]])
    return write_table(tmp_path / "volumes.csv", header, rows), header, rows


def test_a_synthseg_table_gives_52_regions_and_the_scores_beside_it(synthseg) -> None:
    path, header, rows = synthseg
    measured = read_measured(path)
    assert len(header) == 102 and measured.regions == tuple(one.name for one in STRUCTURES)
    assert measured.subjects == ("sub-0_T1w", "sub-1_T1w", "sub-2_T1w", "sub-3_T1w")
    left, right = header.index("left hippocampus"), header.index("right hippocampus")
    found = measured.volumes_SR[:, measured.regions.index("hippocampus")]
    np.testing.assert_allclose(found, [(row[left] + row[right]) / 2 for row in rows], rtol=1e-14)
    assert measured.groups == QC_GROUPS and measured.qc_SG.shape == (4, 8) and measured.segmenter == "synthseg"
    assert measured.icv_S.tolist() == [1.4e6, 1.4e6 + 1, 1.4e6 + 2, 1.4e6 + 3]


def test_columns_in_another_order_give_the_same(synthseg, tmp_path: Path) -> None:
    path, header, rows = synthseg
    order = np.random.default_rng(1).permutation(len(header))
    moved = write_table(tmp_path / "moved.csv", [header[i] for i in order], [[row[i] for i in order] for row in rows])
    one, other = read_measured(path), read_measured(moved)
    assert one.subjects == other.subjects and one.regions == other.regions
    np.testing.assert_array_equal(one.volumes_SR, other.volumes_SR)


def test_a_missing_column_leaves_its_structure_out_by_name(synthseg, tmp_path: Path) -> None:
    _, header, rows = synthseg
    kept = [i for i, name in enumerate(header) if name not in ("right thalamus", "ctx-lh-insula")]
    measured = read_measured(
        write_table(tmp_path / "short.csv", [header[i] for i in kept], [[r[i] for i in kept] for r in rows])
    )
    assert measured.missing == ("thalamus", "ctx-insula") and len(measured.regions) == 50


def test_a_qc_table_with_missing_and_reordered_columns_is_joined_by_name(synthseg, tmp_path: Path) -> None:
    path, _, rows = synthseg
    scores = write_table(
        tmp_path / "scores.csv",
        ["thalamus", "subject", "general csf"],
        [[0.1 * i, row[0], 0.9] for i, row in enumerate(rows)][::-1],
    )
    measured = read_measured(path, qc=scores)
    assert measured.groups == ("general csf", "thalamus")
    np.testing.assert_allclose(measured.qc_SG, [[0.9, 0.0], [0.9, 0.1], [0.9, 0.2], [0.9, 0.3]], atol=1e-15)


def test_a_table_of_asegstats2table_is_read(tmp_path: Path) -> None:
    header = [
        "Measure:volume", "Left-Lateral-Ventricle", "Right-Lateral-Ventricle", "Left-Inf-Lat-Vent",
        "Right-Inf-Lat-Vent", "Left-Thalamus-Proper", "Right-Thalamus-Proper", "3rd-Ventricle", "Brain-Stem", "CSF",
        "Left-VentralDC", "Right-VentralDC", "Left-Accumbens-area", "Right-Accumbens-area", "lhCortexVol",
        "rhCortexVol", "CortexVol", "lhCerebralWhiteMatterVol", "rhCerebralWhiteMatterVol",
        "EstimatedTotalIntraCranialVol",
    ]  # fmt: skip
    path = write_table(tmp_path / "aseg.txt", header, [["bert", *range(2, 38, 2), 1.5e6]], "\t")
    measured = read_measured(path)
    found = dict(zip(measured.regions, measured.volumes_SR[0], strict=True))
    assert found == {
        "lateral ventricle": 3, "inferior lateral ventricle": 7, "thalamus": 11, "3rd ventricle": 14, "brain-stem": 16,
        "accumbens area": 25, "ventral DC": 21, "cerebral white matter": 35, "cerebral cortex": 29, "csf": 18,
    }  # fmt: skip
    assert measured.segmenter == "freesurfer" and measured.icv_S.tolist() == [1.5e6] and measured.subjects == ("bert",)


def test_the_muse_table_of_ixi_gives_the_18_structures(ixi: Measured, anatomy_data: Path) -> None:
    with (anatomy_data / "tables/ixi_dlmuse_volumes.tsv").open() as file:
        first = next(csv.DictReader(file, delimiter="\t"))
    found = dict(zip(ixi.regions, ixi.volumes_SR[0], strict=True))
    sums = {
        "hippocampus": ["Hippocampus_L", "Hippocampus_R"],
        "cerebral cortex": [f"{lobe}_GM" for lobe in ("Frontal", "Limbic", "Occipital", "Parietal", "Temporal")],
        "cerebral white matter": ["Frontal_WM", "Occipital_WM", "Parietal_WM", "Temporal_WM", "Deep_WM", "CorpCall"],
    }
    for name, columns in sums.items():
        assert found[name] == pytest.approx(sum(float(first[column]) for column in columns) / 2, rel=1e-5)
    assert found["csf"] == float(first["CorticalCSF"]) and ixi.regions == tuple(one.name for one in STRUCTURES[:18])
    assert len(ixi) == 200 and ixi.segmenter == "muse" and set(ixi.people) == {"age", "sex", "site"}


def test_a_muse_table_by_numbers_is_read_like_one_by_names(ixi: Measured, anatomy_data: Path, tmp_path: Path) -> None:
    source = anatomy_data / "tables/ixi_dlmuse_volumes.tsv"
    with (anatomy_data / "tables/muse_labels.csv").open() as file:
        numbers = {row["Name"]: row["Index"] for row in csv.DictReader(file)}
    numbers["CortCSF"] = numbers["CorticalCSF"] = "1"
    with source.open() as file:
        header, *rows = list(csv.reader(file, delimiter="\t"))
    named = [numbers.get(name, name) for name in header]
    measured = read_measured(write_table(tmp_path / "numbers.csv", ["MRID", *named[1:]], rows))
    assert measured.regions == ixi.regions
    np.testing.assert_allclose(measured.volumes_SR, ixi.volumes_SR, rtol=2e-5)  # the lobes are rounded


def test_all_columns_are_regions_of_their_own_on_demand(anatomy_data: Path) -> None:
    whole = read_measured(anatomy_data / "tables/ixi_dlmuse_volumes.tsv", "all")
    assert {"Hippocampus", "Fornix", "TotalBrain", "Ventricles"} <= set(whole.regions)
    assert not any(name in whole.regions for name in ("age", "sex", "site", "ICV", "participant_id"))


def test_our_table_comes_back_to_the_last_bit(ixi: Measured, tmp_path: Path) -> None:
    scored = replace(ixi, qc_SG=np.random.default_rng(0).uniform(size=(200, 8)), groups=QC_GROUPS)
    write_measured(scored, tmp_path / "ixi.tsv")
    back = read_measured(tmp_path / "ixi.tsv")
    assert (back.subjects, back.regions, back.groups, back.segmenter) == (ixi.subjects, ixi.regions, QC_GROUPS, "muse")
    for name in ("volumes_SR", "icv_S", "qc_SG", "asymmetry_SR"):
        np.testing.assert_array_equal(getattr(back, name), getattr(scored, name))
    assert back.people == ixi.people and back.missing == ixi.missing
    about = json.loads((tmp_path / "ixi.json").read_text())
    assert about["unit"] == "mm3" and about["regions"] == list(ixi.regions)


def test_columns_of_people_do_not_take_the_place_of_volumes(tmp_path: Path) -> None:
    """A participants.tsv may have a column for what somebody else has measured."""
    people = {"Age": ("61", "62"), "hippocampus": ("1", "2"), "total intracranial": ("3", "4"), "hand": ("left", "")}
    measured = replace(made_people(2), people=people)
    write_measured(measured, tmp_path / "a.tsv")
    back = read_measured(tmp_path / "a.tsv")
    np.testing.assert_array_equal(back.volumes_SR, measured.volumes_SR)
    np.testing.assert_array_equal(back.icv_S, measured.icv_S)
    assert back.people == {"age": ("61", "62")}


def test_an_image_of_which_nothing_was_measured_leaves_the_others_their_asymmetry(tmp_path: Path) -> None:
    asymmetry = np.random.default_rng(0).normal(0, 0.1, (3, 3))
    asymmetry[:, 2] = np.nan  # lies in the middle
    people = replace(made_people(3), qc_SG=np.full((3, 8), 0.9), groups=QC_GROUPS, asymmetry_SR=asymmetry)
    measured = people.add_unreliable(["blank"], {})
    write_measured(measured, tmp_path / "a.tsv")
    np.testing.assert_array_equal(read_measured(tmp_path / "a.tsv").asymmetry_SR, measured.asymmetry_SR)
    assert (tmp_path / "a.tsv").read_text().count("asymmetry") == 2


def test_the_table_is_written_last(tmp_path: Path) -> None:
    """Where it is, all is done: without its .json it could not be read."""
    (tmp_path / "a.json/b").mkdir(parents=True)
    with pytest.raises(InputError, match="cannot be written"):
        write_measured(made_people(3), tmp_path / "a.tsv")
    assert not (tmp_path / "a.tsv").exists()


def test_sides_are_averaged_and_their_asymmetry_kept() -> None:
    sides = {
        "a": {"left": np.array([3.0, 0.0]), "right": np.array([1.0, 0.0])},
        "b": {"middle": np.array([5.0, 6.0])},
        "c": {"left": np.array([2.0, 2.0]), "right": np.array([2.0, 2.0]), "middle": np.array([4.0, 0.0])},
    }
    volumes, asymmetry = combine_sides(sides)  # type: ignore[arg-type]
    assert volumes.tolist() == [[2, 5, 4], [0, 6, 2]]
    np.testing.assert_array_equal(asymmetry, [[1, np.nan, 0], [np.nan, np.nan, 0]])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h, r: (h, []), "has a header and no rows"),
        (lambda h, r: ([*h[:1], *h[2:]], [[*x[:1], *x[2:]] for x in r]), "no column of intracranial volumes"),
        (
            lambda h, r: (h, [r[0], [*r[1][:3], "", *r[1][4:]]]),
            "line 3, column 'right lateral ventricle': nothing where a number",
        ),
        (
            lambda h, r: (h, [[*r[0][:3], "n/a", *r[0][4:]]]),
            "line 2, column 'right lateral ventricle': 'n/a' where a number",
        ),
        (lambda h, r: (h, [[*r[0][:3], "nan", *r[0][4:]]]), "'sub-0_T1w': nan mm³ of lateral ventricle"),
        (lambda h, r: (h, [[*r[0][:3], "inf", *r[0][4:]]]), "'sub-0_T1w': inf mm³ of lateral ventricle"),
        (lambda h, r: (h, [[*r[0][:3], -9999999, *r[0][4:]]]), "mm³ of lateral ventricle; volumes are 0 or more"),
        (lambda h, r: (h, [[r[0][0], 0, *r[0][2:]]]), "0 mm³ of the intracranial volume"),
        (lambda h, r: (h, [r[0], r[0]]), "subject 'sub-0_T1w' is there twice"),
        (lambda h, r: (h, [r[0][:-1]]), "line 2 has 101 cells, the header 102"),
        (lambda h, r: ([*h[:-1], h[3]], r), "has two columns 'right lateral ventricle'"),
        (lambda h, r: (h[:2], [x[:2] for x in r]), "no column of a known structure"),
    ],
)
def test_a_bad_table_is_refused_with_one_line(synthseg, tmp_path: Path, change, message: str) -> None:
    _, header, rows = synthseg
    path = write_table(tmp_path / "bad.csv", *change(header, rows))
    with pytest.raises(InputError, match=r"bad\.csv") as caught:
        read_measured(path, qc=tmp_path / "qc.csv")
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        (["subject", "something"], ["sub-0_T1w", "0.5"], "has no column of a QC group"),
        (["subject", "thalamus"], ["sub-9_T1w", "0.5"], "has no row for subject 'sub-0_T1w'"),
        (["subject", "thalamus"], ["sub-0_T1w", "87"], "87 QC of thalamus; scores are between 0 and 1"),
    ],
)
def test_a_bad_qc_table_is_refused_with_one_line(synthseg, tmp_path: Path, header, row, message: str) -> None:
    _, names, rows = synthseg
    path = write_table(tmp_path / "one.csv", names, rows[:1])
    with pytest.raises(InputError) as caught:
        read_measured(path, qc=write_table(tmp_path / "scores.csv", header, [row]))
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n\xff\xfe", b"", b'a,"b\n1,2'])
def test_what_is_no_table_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.csv"):
        read_measured(tmp_path / "a.csv")


def test_our_table_without_its_json_is_refused(tmp_path: Path) -> None:
    write_measured(made_people(3), tmp_path / "a.tsv")
    (tmp_path / "a.json").unlink()
    with pytest.raises(InputError, match=r"need the \.json"):
        read_measured(tmp_path / "a.tsv")
    (tmp_path / "a.json").write_text('{"regions": [1], "missing": []}')
    with pytest.raises(InputError, match="names no regions"):
        read_measured(tmp_path / "a.tsv")
