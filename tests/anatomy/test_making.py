"""The installed commands make people, segment them, train a generator, sample from it, and refuse what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the extra anatomy is not installed")

from tenfold.anatomy.images import write_image  # noqa: E402
from tenfold.anatomy.sets import open_images  # noqa: E402
from tenfold.anatomy.tables import read_measured  # noqa: E402

from .conftest import made_head  # noqa: E402

_HELD = tuple(f"labels_{number}.nii.gz" for number in range(3))


def _run(*arguments: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tenfold", "anatomy", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == (0 if ok else 2), done.stderr
    return done


@pytest.fixture(scope="module")
def labelmaps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with four made-up heads."""
    folder = tmp_path_factory.mktemp("labelmaps")
    for number in range(4):
        head = made_head()
        write_image(folder / f"labels_{number}.nii.gz", np.roll(head.labels_XYZ, number, 1), head.affine)
    return folder


@pytest.fixture(scope="module")
def people(labelmaps: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four made people at 4 mm, by the command."""
    folder = tmp_path_factory.mktemp("made") / "people"
    facts = json.loads(_run("people", labelmaps, folder, "--count", "4", "--mm", "4", "--json").stdout)
    assert facts == {"images": 4, "folder": str(folder)}
    return folder


def test_segment_writes_labels_volumes_and_scores_and_goes_on(people, tmp_path):
    """lite: a label file per image, a table with eight QC groups; a second call does nothing anew."""
    out = tmp_path / "segmented"
    facts = json.loads(_run("segment", people, out, "--json").stdout)
    assert (facts["images"], facts["regions"], facts["groups"]) == (4, 18, 8)
    measured = read_measured(out / "volumes.tsv")
    assert measured.qc_SG is not None
    assert measured.qc_SG.shape == (4, 8)
    made = {path: path.stat().st_mtime_ns for path in out.glob("*_dseg.nii.gz")}
    assert len(made) == 4
    _run("segment", people, out)
    assert made == {path: path.stat().st_mtime_ns for path in out.glob("*_dseg.nii.gz")}


def test_a_folder_belongs_to_one_back_end(people, tmp_path):
    """tissue into the folder of lite is refused in one line, and nothing is touched."""
    out = tmp_path / "segmented"
    _run("segment", people, out)
    before = sorted(path.name for path in out.iterdir())
    refused = _run("segment", people, out, "--backend", "tissue", ok=False)
    assert "holds segmentations by lite" in refused.stderr
    assert sorted(path.name for path in out.iterdir()) == before


def test_train_and_sample_a_generator(people, tmp_path):
    """A miniature of a few steps: its samples have the affine and the sidecar of what it learned from; more go on."""
    run, out = tmp_path / "vae", tmp_path / "samples"
    facts = json.loads(_run("train", "vae-gan", people, run, "--budget", "8", "--batch-size", "4", "--json").stdout)
    assert facts["images_shown"] == 8
    _run("sample", run / "model", out, "--count", "2", "--seed", "3")
    samples, learned = open_images(out), open_images(people)
    assert len(samples) == 2
    assert samples.processing == learned.processing
    np.testing.assert_allclose(samples[0].affine, learned[0].affine)
    first = samples.paths[0].read_bytes()
    assert "1 of them new" in _run("sample", run / "model", out, "--count", "3", "--seed", "3").stdout
    again = tmp_path / "again"
    assert "seed -1" in _run("sample", run / "model", again, "--count", "1", "--seed", "-1", ok=False).stderr
    _run("sample", run / "model", again, "--count", "1", "--seed", "3")
    assert next(again.glob("*.nii.gz")).read_bytes() == first
    assert "seed differs" in _run("sample", run / "model", out, "--count", "4", "--seed", "4", ok=False).stderr
    assert len(open_images(out)) == 3


def test_train_lite_makes_a_model_that_segments(labelmaps, people, tmp_path):
    """A tiny training from label maps; the model has a card and scores, and segment takes it."""
    run = tmp_path / "lite"
    held = ("--held-out", *_HELD)
    _run("train", "lite", labelmaps, run, "--steps", "2", "--pairs", "8", *held, "--licence", "none, made up")
    card = (run / "model/README.md").read_text()
    assert "none, made up" in card
    assert (run / "model/quality/model.safetensors").exists()
    facts = json.loads(_run("segment", people, tmp_path / "out", "--model", run / "model", "--json").stdout)
    assert facts["groups"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("segment", "nowhere", "out"), "nowhere: is no folder"),
        (("segment", "PEOPLE", "out", "--backend", "atlas"), "needs --labelmaps"),
        (("segment", "PEOPLE", "out", "--parc"), "--parc: goes with --backend synthseg, not with lite"),
        (("segment", "PEOPLE", "out", "--model", "nowhere"), "nowhere"),
        (("segment", "PEOPLE", "out", "--backend", "synthseg", "--program", "no_such_program"), "no_such_program"),
        (("people", "nowhere", "out"), "nowhere: has no label maps"),
        (("people", "MAPS", "out", "--count", "0"), "--count 0"),
        (("people", "MAPS", "out", "--mm", "0"), "mm 0: voxels have"),
        (("people", "MAPS", "out", "--mm", "6", "--seed", "-1"), "seed -1"),
        (("train", "lite", "MAPS", "out", "--held-out", "other.nii.gz"), "other.nii.gz: is no file of"),
        (("train", "lite", "MAPS", "out", "--pairs", "4", "--held-out", *_HELD), "pairs 4: give 8 or more"),
        (("train", "vae-gan", "PEOPLE", "out", "--budget", "0"), "--budget 0"),
        (("train", "vae-gan", "PEOPLE", "out", "--steps", "9"), "--steps: goes with lite, not with vae-gan"),
        (("train", "lite", "MAPS", "out", "--batch-size", "2"), "--batch-size: goes with a generator, not with lite"),
        (("train", "vae-gan", "nowhere", "out"), "nowhere: is no folder"),
        (("sample", "nowhere", "out"), "nowhere"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(arguments, message, people, labelmaps, tmp_path, monkeypatch):
    """Exit status 2, one line that names it, no folder made."""
    monkeypatch.chdir(tmp_path)
    places = {"PEOPLE": str(people), "MAPS": str(labelmaps)}
    done = _run(*(places.get(one, one) for one in arguments), ok=False)
    assert message in done.stderr
    assert done.stderr.strip().count("\n") == 0
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
