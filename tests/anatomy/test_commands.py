"""The verbs, through the command line."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tenfold.cli
from tenfold.anatomy.labels import QC_GROUPS
from tenfold.anatomy.tables import read_measured, write_measured
from tenfold.anatomy.volumes import Measured


@pytest.fixture
def tables(ixi: Measured, tmp_path: Path) -> Path:
    order = np.random.default_rng(0).permutation(200)
    for name, rows in (("real", order[:80]), ("people", order[80:160]), ("training", order[160:])):
        write_measured(
            replace(ixi.take(rows), qc_SG=np.full((len(rows), 8), 0.9), groups=QC_GROUPS), tmp_path / f"{name}.tsv"
        )
    people = read_measured(tmp_path / "people.tsv")
    write_measured(replace(people, volumes_SR=people.volumes_SR * 1.15), tmp_path / "large.tsv")
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    status = tenfold.cli.main(["anatomy", *map(str, args)])
    shown = capsys.readouterr()
    return status, shown.out, shown.err


def test_evaluate_prints_verdicts_and_writes_a_report(tables: Path, capsys) -> None:
    sets = ("--generated", f"mine={tables}/people.tsv", f"large={tables}/large.tsv")
    status, out, err = run(
        capsys, "evaluate", "--real", tables / "real.tsv", *sets, "--training", tables / "training.tsv",
        "--replicates", 50, "--out", tables / "report",
    )  # fmt: skip
    assert (status, err) == (0, "") and "implausible" in out and "Written:" in out
    assert (tables / "report/anatomy.html").is_file() and (tables / "report/regions.tsv").is_file()
    status, out, _ = run(capsys, "evaluate", "--real", tables / "real.tsv", *sets, "--replicates", 50, "--json")
    verdicts = {row["generator"]: row["anatomy"] for row in json.loads(out)["tables"][0]["rows"]}
    assert status == 0 and verdicts == {"mine": "plausible", "large": "implausible"}


def test_what_is_printed_fits_a_terminal_of_100_characters(tables: Path, capsys) -> None:
    sets = ("--generated", f"mine={tables}/people.tsv", f"large={tables}/large.tsv")
    status, out, _ = run(capsys, "evaluate", "--real", tables / "real.tsv", *sets, "--replicates", 50)
    assert status == 0 and "inferior lateral ventricle" in out and "hippocampus+amygdala" in out
    assert "What " not in out  # age and sex are in the report
    assert max(len(line.rstrip()) for line in out.splitlines() if line.startswith("  ")) <= 100


def test_evaluate_says_once_that_there_are_few_images(tables: Path, capsys) -> None:
    write_measured(read_measured(tables / "people.tsv").take(range(8)), tables / "few.tsv")
    _, out, err = run(
        capsys, "evaluate", "--real", tables / "real.tsv", "--generated", f"few={tables}/few.tsv", "--replicates", 50
    )
    assert not err and out.count("few: 80 real and 8 generated images: below 10 of each no p is given") == 1


def test_qc_shows_the_gate(tables: Path, capsys) -> None:
    status, out, _ = run(capsys, "qc", f"real={tables}/real.tsv", "--json")
    [row] = json.loads(out)["rows"]
    assert status == 0 and row["gate"] == "passes" and row["thalamus"] == 1
    status, out, _ = run(capsys, "qc", f"real={tables}/real.tsv", "--threshold", 0.95)
    assert status == 0 and "fails" in out and "putamen+pallidum" in out


def test_measure_makes_a_table_of_label_files(anatomy_data: Path, tmp_path: Path, capsys) -> None:
    status, out, _ = run(capsys, "measure", anatomy_data / "labelmaps", tmp_path / "volumes.tsv")
    assert status == 0 and "16 images, 18 regions; without 34 cortical regions" in out
    assert len(read_measured(tmp_path / "volumes.tsv")) == 16


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["evaluate"], "evaluate needs --real PATH and --generated NAME=PATH"),
        (["evaluate", "--real", "real.tsv", "--generated", "people.tsv"], "'people.tsv': give a name and a path"),
        (["evaluate", "--real", "nowhere.tsv", "--generated", "a=people.tsv"], "nowhere.tsv: cannot be read"),
        (["evaluate", "--real", "real.tsv", "--generated", "a=people.tsv", "a=large.tsv"], "names 'a' twice"),
        (["evaluate", "--real", "real.tsv", "--generated", "a=people.tsv", "--replicates", "1"], "give 2 or more"),
        (["evaluate", "--real", "r.tsv", "--generated", "a=p.tsv", "--images", "a=x"], "image metrics need both"),
        (
            ["evaluate", "--real", "r.tsv", "--generated", "a=p.tsv", "--real-images", "x", "--images", "b=x"],
            "'b' is none of --generated, a",
        ),
        (
            ["evaluate", "--real", "real.tsv", "--generated", "a=people.tsv", "--without", "hippocamus"],
            "has no region 'hippocamus'",
        ),
        (
            ["evaluate", "--real", "real.tsv", "--generated", "a=people.tsv", "--adjust", "none", "--legacy"],
            "leave one of them out",
        ),
        (["qc"], "qc needs NAME=PATH"),
        (["images", "x"], "images needs REAL and then NAME=FOLDER"),
        (["images", "x", "a=x"], "x: is no folder"),
        (["prepare", "x", "template.nii", "out"], "x: is no folder"),
        (["measure", "real.tsv", "out.csv"], "ends in .tsv"),
        (["qc", "real=report"], "report"),
    ],
)
def test_bad_input_is_one_line_and_status_2(
    tables: Path, capsys, monkeypatch: pytest.MonkeyPatch, args: list[str], message: str
) -> None:
    monkeypatch.chdir(tables)
    status, _, err = run(capsys, *args)
    assert status == 2 and message in err and err.count("\n") == 1 and err.startswith("tenfold: ")


def test_the_verbs_alone_import_nothing_heavy() -> None:
    heavy = ("torch", "SimpleITK", "pandas", "scipy", "nibabel", "numpy")
    code = f"import sys, tenfold.anatomy.commands; print([one for one in {heavy} if one in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_report_shows_again_what_evaluate_has_written(tables: Path, capsys) -> None:
    sets = ("--generated", f"mine={tables}/people.tsv", "--replicates", 20)
    _, shown, _ = run(capsys, "evaluate", "--real", tables / "real.tsv", *sets, "--out", tables / "report")
    status, again, _ = run(capsys, "report", tables / "report")
    assert status == 0
    assert [line for line in shown.splitlines() if "hippocampus" in line] == [
        line for line in again.splitlines() if "hippocampus" in line
    ]
    status, out, _ = run(capsys, "report", tables / "report", "--json")
    assert json.loads(out)["tables"] == json.loads((tables / "report/anatomy.json").read_text())["tables"]
    status, _, err = run(capsys, "report", tables)
    assert status == 2 and "is not there" in err and err.count("\n") == 1


def test_a_generator_without_reliable_images_does_not_hide_the_training_images(tables: Path, capsys) -> None:
    people = read_measured(tables / "people.tsv")
    write_measured(replace(people, qc_SG=np.zeros((len(people), 8)), groups=QC_GROUPS), tables / "noise.tsv")
    sets = ("--generated", f"noise={tables}/noise.tsv", "--training", tables / "training.tsv", "--replicates", 20)
    status, out, _ = run(capsys, "evaluate", "--real", tables / "real.tsv", *sets)
    assert status == 0 and "unreliable" in out and "without training images" not in out
