"""Stats files in the format of FreeSurfer 7 and FastSurfer."""

from pathlib import Path

import pytest

from tenfold.anatomy.labels import CORTICAL
from tenfold.anatomy.tables import read_measured
from tenfold.core.errors import InputError

HEAD = """# Title Segmentation Statistics
# subjectname {subject}
# Measure lhCortex, lhCortexVol, Left hemisphere cortical gray matter volume, 240000.5, mm^3
# Measure rhCortex, rhCortexVol, Right hemisphere cortical gray matter volume, 242000.5, mm^3
# Measure BrainSegVol-to-eTIV, BrainSegVol-to-eTIV, Ratio of BrainSegVol to eTIV, 0.764228, unitless
# Measure EstimatedTotalIntraCranialVol, eTIV, Estimated Total Intracranial Volume, {icv}, mm^3
# NTableCols 10
# ColHeaders  Index SegId NVoxels Volume_mm3 StructName normMean normStdDev normMin normMax normRange
  1  10     21607     7280.5  Left-Thalamus                     92.1    8.3    32.0   115.0    83.0
  2  49     19911     6680.5  Right-Thalamus                    90.3    8.8    27.0   111.0    84.0
  3  16     63207    21691.5  Brain-Stem                        81.1    8.9    26.0   111.0    85.0
"""
CORTEX = "# ColHeaders StructName NumVert SurfArea GrayVol ThickAvg ThickStd MeanCurv GausCurv FoldInd CurvInd\n"


def write_subject(folder: Path, subject: str, icv: float = 1.5e6) -> Path:
    stats = folder / subject / "stats"
    stats.mkdir(parents=True)
    (stats / "aseg.stats").write_text(HEAD.format(subject=subject, icv=icv))
    for side, grey in (("lh", 2000), ("rh", 3000)):
        rows = [f"{one.name[4:]:30} 3600 1138 {grey + i} 2.2 0.3 0.05 0.01 19 1.9\n" for i, one in enumerate(CORTICAL)]
        (stats / f"{side}.aparc.stats").write_text(CORTEX + "".join(rows))
    return stats / "aseg.stats"


def test_a_folder_of_subjects_gives_structures_measures_and_cortex(tmp_path: Path) -> None:
    write_subject(tmp_path, "one")
    write_subject(tmp_path, "two", 1.6e6)
    measured = read_measured(tmp_path)
    found = dict(zip(measured.regions, measured.volumes_SR[1], strict=True))
    assert measured.subjects == ("one", "two") and measured.icv_S.tolist() == [1.5e6, 1.6e6]
    assert found["thalamus"] == 6980.5 and found["brain-stem"] == 21691.5 and found["cerebral cortex"] == 241000.5
    assert found["ctx-bankssts"] == 2500 and found["ctx-insula"] == 2533
    assert measured.segmenter == "freesurfer" and "hippocampus" in measured.missing


def test_one_file_is_one_subject(tmp_path: Path) -> None:
    assert read_measured(write_subject(tmp_path, "one")).subjects == ("one",)


def test_stats_that_are_none_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.stats").write_text("what is this\n")
    with pytest.raises(InputError, match="is not a stats file of FreeSurfer"):
        read_measured(tmp_path / "a.stats")
    write_subject(tmp_path, "one")
    file = write_subject(tmp_path, "two")
    file.write_text(file.read_text().replace("Brain-Stem", "Stem"))
    with pytest.raises(InputError, match=r"differs from .* in 'Brain-Stem'"):
        read_measured(tmp_path)
