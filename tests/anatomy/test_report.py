"""The report: the same bytes twice, and all that was found in each of its forms."""

import csv
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from tenfold.anatomy.bench import Bench, Evaluation
from tenfold.anatomy.figures import box_plots, heat_map
from tenfold.anatomy.labels import QC_GROUPS
from tenfold.anatomy.report import read_report
from tenfold.anatomy.svg import drawing
from tenfold.anatomy.volumes import Measured
from tenfold.core.errors import InputError
from tenfold.core.reports import Table


@pytest.fixture(scope="module")
def evaluation(ixi: Measured) -> Evaluation:
    order = np.random.default_rng(0).permutation(200)
    real, people, training = ixi.take(order[:70]), ixi.take(order[70:140]), ixi.take(order[140:])
    scored = replace(people, qc_SG=np.full((70, 8), 0.9), groups=QC_GROUPS)
    sets = {
        "people & <others>": scored,
        "too large": replace(people, volumes_SR=people.volumes_SR * 1.15),
        "copies": training,
        "noise": replace(people, qc_SG=np.full((70, 8), 0.1), groups=QC_GROUPS),
    }
    return Bench(real, training, replicates=100).evaluate(sets)


def test_the_report_is_stable_byte_for_byte(evaluation: Evaluation, tmp_path: Path) -> None:
    digests = []
    for name in ("one", "two"):
        written = evaluation.write(tmp_path / name)
        digests.append({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written})
    assert digests[0] == digests[1]
    assert set(digests[0]) == {
        "anatomy.html",
        "anatomy.md",
        "anatomy.json",
        "anatomy-1.svg",
        "anatomy-2.svg",
        "regions.tsv",
    }


def test_the_verdicts_are_in_the_first_table(evaluation: Evaluation) -> None:
    rows = {row[0]: dict(zip(evaluation.table().columns, row, strict=True)) for row in evaluation.table().rows}
    assert [rows[name]["passes"] for name in rows] == ["yes", "no", "no", "no"]
    assert rows["too large"]["anatomy"] == "implausible" and rows["noise"]["anatomy"] == "unreliable"
    assert rows["copies"]["memorised"] == "yes: 100% are copies" and rows["people & <others>"]["gate"] == "passes"
    assert [one.name for one in evaluation.ranks][-1] == "too large" and len(evaluation.ranks) == 3


def test_the_rejected_share_stands_in_front(evaluation: Evaluation) -> None:
    """With the group that is reliable least often; what the gate says comes before all that is measured behind it."""
    columns = evaluation.table().columns
    assert columns[:5] == ["generator", "passes", "rejected", "weakest group", "gate"]
    rows = {row[0]: row[2:5] for row in evaluation.table().rows}
    assert rows["people & <others>"] == [0.0, None, "passes"] and rows["copies"] == [None, None, "no QC"]
    assert rows["noise"] == [1.0, f"{QC_GROUPS[0]}: 0.0%", "fails"]


def test_the_page_goes_from_verdicts_to_drawings_to_details(evaluation: Evaluation, tmp_path: Path) -> None:
    extra = drawing("Slices", 10, 10, [])
    [page, *others] = evaluation.write(tmp_path, drawings=[extra])
    heads = re.findall("<h2>(.*?)</h2>", page.read_text())
    drawn = [heads.index(one.title.replace("'", "&#39;")) for one in evaluation.report(drawings=[extra]).plots]
    assert drawn == sorted(drawn) and heads.index("Ranking") < drawn[0]
    assert heads.index("Slices") == drawn[-1] < heads.index("Regions of too large")
    assert "anatomy-3.svg" in [path.name for path in others]


def test_the_tsv_has_every_number_of_every_region(evaluation: Evaluation, tmp_path: Path) -> None:
    evaluation.write(tmp_path)
    with (tmp_path / "regions.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 3 * 19
    row = next(row for row in rows if row["generator"] == "too large" and row["region"] == "thalamus")
    region = evaluation.found["too large"].region("thalamus")
    assert float(row["d"]) == pytest.approx(region.d.value, rel=1e-9) and row["plausible"] == "false"
    assert float(row["p_holm"]) == pytest.approx(region.p_holm, rel=1e-9)
    assert next(row for row in rows if row["region"] == "brain-stem")["asymmetry_d"] == "n/a"


def test_json_and_page_are_whole(evaluation: Evaluation, tmp_path: Path) -> None:
    extra = Table("Image metrics", ["generator", "FID"], [["too large", 1.5]])
    evaluation.write(tmp_path, [extra])
    titles = [table["title"] for table in json.loads((tmp_path / "anatomy.json").read_text())["tables"]]
    assert titles[:5] == ["Verdicts", "Reliable segmentations", "The sets as a whole", "Ranking", "Image metrics"]
    page = (tmp_path / "anatomy.html").read_text()
    assert page.count("<svg") == 2 and "people &amp; &lt;others&gt;" in page and "<others>" not in page
    assert not re.search(r'(?:src|href)="', page)  # nothing is fetched
    report = evaluation.report()
    for table in (*report.tables, *report.details):
        assert len(set(table.columns)) == len(table.columns)  # JSON keys


def test_drawings_are_valid_and_show_every_region(evaluation: Evaluation) -> None:
    for drawn in (heat_map(evaluation.found), box_plots(evaluation.found)):
        texts = {one.text for one in ElementTree.fromstring(drawn.to_svg()).iter("{http://www.w3.org/2000/svg}text")}
        assert {one.name for one in evaluation.found["too large"].regions} <= texts
    assert f"{evaluation.found['too large'].region('thalamus').d.value:+.2f}" in heat_map(evaluation.found).to_svg()


def test_regions_of_a_generator_are_a_table_of_their_own(evaluation: Evaluation) -> None:
    assert len(evaluation.regions("copies").rows) == 19 and not evaluation.regions("noise").rows
    with pytest.raises(InputError, match="no generator 'mine'"):
        evaluation.regions("mine")


def test_regions_can_be_left_out_of_the_bench(ixi: Measured) -> None:
    halves = ixi.take(range(0, 200, 2)), ixi.take(range(1, 200, 2))
    found = Bench(halves[0], without=("csf",), replicates=10).evaluate({"a": halves[1]})
    assert "csf" not in [one.name for one in found.found["a"].regions]
    with pytest.raises(InputError, match="no region is left"):
        Bench(halves[0], without=ixi.regions).evaluate({"a": halves[1]})
    with pytest.raises(InputError, match="no generator was given"):
        Bench(halves[0]).evaluate({})
    with pytest.raises(InputError, match="a generator is called 'real'"):
        Bench(halves[0]).evaluate({"real": halves[1]})


def test_a_damaged_report_is_refused(tmp_path: Path) -> None:
    table = {"title": "Verdicts", "notes": [], "rows": [{"generator": "a", "passes": "yes"}, {"generator": "b"}]}
    (tmp_path / "anatomy.json").write_text(json.dumps({"title": "A report", "notes": [], "tables": [table]}))
    with pytest.raises(InputError, match=r"anatomy\.json: is damaged or no report"):
        read_report(tmp_path)
