"""`tenfold reproduce anatomy` from end to end with few, coarse people, and its report where a set has failed."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from tenfold.anatomy import claims, experiments  # noqa: E402
from tenfold.anatomy.experiments import Effort, Outcome, measure_generators, real_holdout  # noqa: E402
from tenfold.anatomy.labels import QC_GROUPS  # noqa: E402
from tenfold.anatomy.lite import LiteSegmenter  # noqa: E402
from tenfold.anatomy.plausibility import compare  # noqa: E402
from tenfold.anatomy.sets import read_label_maps  # noqa: E402
from tenfold.anatomy.volumes import Measured  # noqa: E402
from tenfold.cli import main  # noqa: E402

_TINY = Effort(people=10, mm=8.0, learned=0)


def test_the_command_reports_every_claim(
    anatomy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value for each claim; true labels find both changes, with the right signs; a page."""
    monkeypatch.setattr(claims, "_QUICK", _TINY)
    out = tmp_path / "reproduced"
    command = ["reproduce", "anatomy", "--data", str(anatomy_data), "--seeds", "1", "--quick", "--out", str(out)]
    assert main([*command, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((out / "anatomy.json").read_text())
    rows = {row["claim"]: row for row in report["tables"][0]["rows"]}
    assert set(rows) == set(claims.CLAIMS)
    assert rows["C1"]["mean"] == rows["C2"]["mean"] == 1
    truth = {row["region"]: row["changed, truth"] for row in report["tables"][1]["rows"]}
    assert truth["hippocampus"] > 0.5
    assert truth["lateral ventricle"] < 0
    assert "voxels of 8 mm" in (out / "anatomy.html").read_text()


def test_a_set_without_reliable_images_is_left_blank(ixi: Measured) -> None:
    """No error: the other sets and claims are reported."""
    real, other = ixi.take(range(100)), ixi.take(range(100, 200))
    failed = replace(other, qc_SG=np.zeros((100, 8)), groups=QC_GROUPS)
    fine, lost = (compare(real, one, replicates=2, permutations=1) for one in (other, failed))
    sets = ("blurred", "changed", "faithful")
    outcome = Outcome(
        found={"blurred": lost, "changed": lost, "faithful": fine}, truth=dict.fromkeys(sets, fine),
        correlations=dict.fromkeys(ixi.regions, 0.9),
    )  # fmt: skip
    outcome.images = outcome.anatomy = [claims.Configuration("any", 1.0, 2.0)]
    made = claims.report([outcome], [real_holdout(ixi, 0)], [], _TINY, "lite")
    [region] = [row for row in made.tables[1].rows if row[0] == "hippocampus"]
    d = fine.region("hippocampus").d.value
    assert region == ["hippocampus", None, d, None, d, d, d, 0.9]
    assert [row[1] for row in made.tables[2].rows] == ["unreliable", "unreliable", "plausible"]
    assert made.tables[2].rows[0][2:] == [None, 1.0, None]
    assert "A1" not in {row[0] for row in made.tables[0].rows}
    assert "A1: measured for 0 of 1 seeds; in the others a set has no reliable images" in made.notes


def test_generators_go_through_the_bench_beside_real_people(
    anatomy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that has hardly been trained: the gate rejects every image of it, and no real person."""
    monkeypatch.setattr(experiments, "GENERATORS", {"vae-gan": experiments.GENERATORS["vae-gan"]})
    segmenter = LiteSegmenter()
    maps = read_label_maps(anatomy_data / "labelmaps", segmenter.learned_from)
    effort = Effort(people=10, learned=4, samples=2, budget=4)
    made, real = measure_generators(maps, tmp_path, effort, 0, segmenter)
    assert (made.name, real.name) == ("vae-gan", "folder")
    assert made.found.generated_gate is not None
    assert real.found.generated_gate is not None
    assert (made.found.generated_gate.rejected, real.found.generated_gate.rejected) == (1, 0)
    assert made.found.verdict == "unreliable"
    assert made.parameters > 10_000 > real.parameters == 0
    assert real.fid < made.fid
    assert real.nearest < made.nearest


def test_no_data_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more, said in (([], "needs --data"), (["--data", str(tmp_path)], "ixi_dlmuse_volumes.tsv: cannot be read")):
        assert main(["reproduce", "anatomy", *more, "--out", str(tmp_path / "out")]) == 2
        assert said in capsys.readouterr().err
