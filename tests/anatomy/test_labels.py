"""Numbers and names against SynthSeg's and MUSE's own tables."""

import csv
from pathlib import Path

from tenfold.anatomy.labels import CORTICAL, GLOBAL, QC_GROUPS, STRUCTURES, SUBCORTICAL


def rows(path: Path, delimiter: str = "\t") -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def test_the_papers_lists_are_whole() -> None:
    assert [len(one) for one in (SUBCORTICAL, GLOBAL, CORTICAL)] == [15, 3, 34]
    assert len({one.name for one in STRUCTURES}) == 52
    assert {one.group for one in STRUCTURES} == set(QC_GROUPS)


def test_names_numbers_and_groups_are_those_of_synthsegs_table(anatomy_data: Path) -> None:
    structure = {code: (one, side) for one in STRUCTURES for side, codes in one.freesurfer.items() for code in codes}
    for row in rows(anatomy_data / "tables/labels.tsv"):
        if row["segmentation_label"] == "0":
            continue
        one, side = structure[int(row["generation_label"])]
        assert row["segmentation_name"] == (one.name if side == "middle" else f"{side} {one.name}")
        assert row["qc_group"] == one.group
        assert QC_GROUPS[int(row["qc_group_id"]) - 1] == one.group


def test_muse_numbers_meet_freesurfers_as_in_the_table_of_both(anatomy_data: Path) -> None:
    for row in rows(anatomy_data / "tables/muse_to_freesurfer.tsv"):
        [one] = [s for s in STRUCTURES if any(int(row["freesurfer_label"]) in codes for codes in s.freesurfer.values())]
        [side] = [side for side, codes in one.freesurfer.items() if int(row["freesurfer_label"]) in codes]
        assert one.muse[side] == (int(row["muse_code"]),)


def test_every_gyrus_of_muse_is_in_the_cortex_on_its_side(anatomy_data: Path) -> None:
    cortex = GLOBAL[1].muse
    names = {int(row["Index"]): row["Name"] for row in rows(anatomy_data / "tables/muse_labels.csv", ",")}
    assert {code for codes in cortex.values() for code in codes} == {code for code in names if 100 <= code <= 207}
    assert all(names[code].endswith("_L") for code in cortex["left"])
    assert all(names[code].endswith("_R") for code in cortex["right"])


def test_no_label_counts_twice_among_subcortical_and_global_structures() -> None:
    for scheme in ("freesurfer", "muse"):
        codes = [code for one in SUBCORTICAL + GLOBAL for side in one.codes(scheme).values() for code in side]  # type: ignore[arg-type]
        assert len(codes) == len(set(codes))
