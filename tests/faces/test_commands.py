"""The verbs of `tenfold faces`, from folders of people to a gallery and an exported student; and what they turn down.

The people are patterns of colour, drawn here: with `--detector none` any picture is a crop. What needs faces takes
real ones. A few calls go through the installed command; what is left is called in this process, where torch is
imported already.
"""

import io
import json
import os
import shutil
import subprocess
import sysconfig
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from PIL import Image

from tenfold import faces
from tenfold.cli import main
from tenfold.faces import losses, preparation, settings, teaching
from tenfold.faces.commands import COMMANDS
from tenfold.faces.comparisons import all_pairs
from tenfold.faces.data import read_faces
from tenfold.faces.gallery import Gallery, read_key
from tenfold.faces.preparation import read_seen
from tenfold.faces.thresholds import Threshold

TENFOLD = Path(sysconfig.get_path("scripts"), "tenfold")
CROPS = ("--detector", "none")
SHORT = (*CROPS, "--device", "cpu", "--seed", "1")
Capture = pytest.CaptureFixture[str]


def run(*args: str | Path) -> int:
    return main(["faces", *map(str, args)])


def call(capsys: Capture, *args: str | Path) -> Any:
    """The JSON that a verb prints: an object, or a list of one object per line."""
    capsys.readouterr()
    assert run(*args, "--json") == 0
    found = [json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines()]
    return found if args[0] in ("embed", "identify", "people") else found[0]


def refusal(capsys: Capture, *args: str | Path) -> str:
    """The one line in which a verb says why it cannot be done, with exit status 2 and nothing on stdout."""
    capsys.readouterr()
    assert run(*args) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    line = shown.err.splitlines()[-1]
    assert line.startswith("tenfold: ") and "Traceback" not in shown.err
    return line


def bridge(root: Path) -> tuple[str | Path, ...]:
    """How a student of the adapter and teacher in `root` is trained."""
    roles = ("--adapter", root / "adapter", "--teacher", root / "teacher")
    return (*SHORT, *roles, "--validation", "0.4")


def draw_person(folder: Path, seed: int, pictures: int = 6) -> None:
    """A pattern of 6 x 6 colours, big, each time under other light and noise."""
    random = np.random.default_rng(seed)
    base = Image.fromarray(random.integers(30, 226, (6, 6, 3), np.uint8)).resize((96, 96), Image.Resampling.BICUBIC)
    folder.mkdir(parents=True)
    for number in range(pictures):
        light = random.uniform(0.8, 1.2) * np.asarray(base, np.float64) + random.normal(0, 8, (96, 96, 3))
        Image.fromarray(light.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of people; a teacher, an adapter and a student of them; a key."""
    root = tmp_path_factory.mktemp("faces")
    for name, seeds in (("private", range(8)), ("public", range(10, 20)), ("unseen", range(30, 36))):
        for seed in seeds:
            draw_person(root / name / f"person{seed}", seed)
    teacher, adapter = root / "teacher", root / "adapter"
    assert run("teach", root / "private", teacher, *SHORT, "--epochs", "2", "--dimension", "32") == 0
    assert run("adapt", root / "public", adapter, teacher, *SHORT, "--epochs", "10") == 0
    assert run("distill", root / "public", root / "student", *bridge(root), "--epochs", "15", "--far", "0.1") == 0
    assert run("key", root / "staff.key") == 0
    return root


@pytest.fixture
def gallery(place: Path, tmp_path: Path) -> Path:
    """A gallery with two people, each from five pictures; the sixth is left for questions."""
    path = tmp_path / "staff.gallery"
    for person, folder in (("Ada", "person35"), ("Zoë Ångström", "person32")):
        pictures = sorted((place / "unseen" / folder).iterdir())[:5]
        asked = ("--consent", "form 17", "--until", "2099-12-31", "--key", place / "staff.key", *CROPS)
        assert run("enroll", path, place / "student", person, *pictures, *asked) == 0
    return path


def test_the_choices_of_verbs_are_those_of_the_room() -> None:
    verbs = (teaching.PersonFrom, teaching.Keep, teaching.Selection, teaching.Method, teaching.Margin)
    room = (preparation.PersonFrom, settings.Keep, settings.Selection, settings.Method, losses.Margin)
    assert verbs == room


# --- training ---------------------------------------------------------------------------------------------------------


def test_the_bridge_is_built_from_folders(place: Path, capsys: Capture) -> None:
    """Runs keep models with cards; the student knows its teacher's space, and a threshold with what it rests on."""
    config = json.loads((place / "student/best/config.json").read_text())
    assert (config["kind"], config["size"], config["people"]) == ("student", 16, 6)
    assert config["space"] and config["teacher"]
    threshold = Threshold.from_json(json.loads((place / "student/best/threshold.json").read_text()))
    assert (threshold.far, threshold.people, threshold.pairs) == (0.1, 4, 6 * 36)
    capsys.readouterr()
    assert run("card", place / "student") == 0
    card = capsys.readouterr().out
    assert "36 faces of 6 people" in card and config["teacher"] in card and "untargeted scraping" in card


def test_the_same_command_goes_on_and_another_is_refused(place: Path, tmp_path: Path, capsys: Capture) -> None:
    command = ("distill", place / "public", tmp_path / "run", *bridge(place))
    first = call(capsys, *command, "--epochs", "1")
    again = call(capsys, *command, "--epochs", "1")
    assert again["steps"] == first["steps"] == 9 and again["threshold"] == first["threshold"]
    assert "width" in refusal(capsys, *command, "--epochs", "1", "--width", "0.5")
    noted = read_seen(tmp_path / "run")
    other = ("distill", place / "unseen", tmp_path / "run", *bridge(place), "--epochs", "1")
    assert "is of another run" in refusal(capsys, *other) and len(noted) == 60
    assert read_seen(tmp_path / "run") == noted, "what was refused was not seen"


def test_what_a_killed_training_saw_is_noted(place: Path, tmp_path: Path) -> None:
    with teaching._remembering(tmp_path, read_faces(place / "public")):
        assert len(read_seen(tmp_path)) == 60


@pytest.mark.parametrize("method", ["scratch", "direct", "hinton", "fitnet"])
def test_a_baseline_needs_no_adapter(method: str, place: Path, tmp_path: Path, capsys: Capture) -> None:
    teacher = () if method == "scratch" else ("--teacher", place / "teacher")
    options = (*SHORT, "--method", method, *teacher, "--epochs", "1", "--validation", "0", "--width", "0.25")
    found = call(capsys, "distill", place / "public", tmp_path / "run", *options)
    assert found["steps"] == 9 and "threshold" not in found and found["AUC on people held back"] is None


def test_a_student_has_the_dimension_of_its_adapter(place: Path, tmp_path: Path, capsys: Capture) -> None:
    narrow = ("--epochs", "1", "--dimension", "24")
    assert run("adapt", place / "public", tmp_path / "adapter", place / "teacher", *SHORT, *narrow) == 0
    roles = ("--adapter", tmp_path / "adapter", "--teacher", place / "teacher", "--validation", "0", "--epochs", "1")
    call(capsys, "distill", place / "public", tmp_path / "run", *SHORT, *roles)
    assert json.loads((tmp_path / "run/last/config.json").read_text())["dimension"] == 24
    line = refusal(capsys, "distill", place / "public", tmp_path / "other", *SHORT, *roles, "--dimension", "32")
    assert "targets have 24 numbers, the student 32" in line


def test_what_a_training_lacks_is_said_before_pictures_are_read(place: Path, tmp_path: Path, capsys: Capture) -> None:
    out, faces, teacher = tmp_path / "run", place / "public", ("--teacher", place / "teacher")
    assert "--teacher" in refusal(capsys, "distill", faces, out, *CROPS)
    assert "--adapter" in refusal(capsys, "distill", faces, out, *CROPS, *teacher)
    assert "no.onnx: no such file" in refusal(capsys, "adapt", faces, out, "no.onnx", *CROPS)
    assert "not 'teacher'" in refusal(capsys, "adapt", faces, out, place / "student", *CROPS)
    assert "not 'adapter'" in refusal(capsys, "distill", faces, out, *CROPS, *teacher, "--adapter", place / "student")
    scratch = ("--method", "scratch")
    assert "far is 2.0; give a share" in refusal(capsys, "distill", faces, out, *CROPS, *scratch, "--far", "2")
    for command in (("teach", faces, out), ("adapt", faces, out, place / "teacher"), ("distill", faces, out, *scratch)):
        for seed in ("-1", "4294967296"):
            line = refusal(capsys, *command, *CROPS, "--seed", seed)
            assert f"seed is {seed}; it must be a whole number from 0 to 2^32 - 1" in line
    assert not out.exists()


def test_an_adapter_of_another_teacher_is_refused(place: Path, tmp_path: Path, capsys: Capture) -> None:
    few = ("--epochs", "1", "--dimension", "32", "--validation", "0")
    assert run("teach", place / "unseen", tmp_path / "other", *SHORT, *few) == 0
    roles = ("--adapter", place / "adapter", "--teacher", tmp_path / "other")
    line = refusal(capsys, "distill", place / "public", tmp_path / "run", *CROPS, *roles)
    assert f"{place}/adapter" in line and "was trained on teacher" in line


class Noise:
    """A model whose vectors are random ones."""

    def __init__(self, seed: int) -> None:
        self.id = str(seed)

    def embed_crops(self, crops_NSSC: Any) -> Any:
        vectors_Nd = np.random.default_rng(int(self.id)).normal(size=(len(crops_NSSC), 256)).astype(np.float32)
        return vectors_Nd / np.linalg.norm(vectors_Nd, axis=1, keepdims=True)


def test_a_million_pairs_need_little_memory(tmp_path: Path) -> None:
    """Both sides of all of them at once would be 2 GB. Scores are of the one model's vectors with the other's."""
    labels_N = np.arange(1500) % 30
    given, one, other = preparation.LabelledCrops(np.zeros((1500, 1, 1, 3), np.uint8), labels_N, ()), Noise(0), Noise(1)
    tracemalloc.start()
    threshold = teaching._calibrate(tmp_path, one, other, given, tmp_path, 0.01)  # type: ignore[arg-type]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 300e6
    first, second = all_pairs(labels_N)
    scores = (one.embed_crops(labels_N) @ other.embed_crops(labels_N).T)[first, second][(first - second) % 30 > 0]
    assert (scores >= threshold.value).mean() == pytest.approx(0.01, abs=1e-5)


def test_too_few_people_are_told_with_their_folder(place: Path, tmp_path: Path, capsys: Capture) -> None:
    draw_person(tmp_path / "lonely/one", 50)
    line = refusal(capsys, "teach", tmp_path / "lonely", tmp_path / "run", *SHORT)
    assert f"{tmp_path}/lonely: validation 0.2 of 1 people" in line
    line = refusal(capsys, "evaluate", place / "student", tmp_path / "lonely", *CROPS)
    assert f"{tmp_path}/lonely: 6 faces of 1 people" in line and "give two people" in line
    line = refusal(capsys, "calibrate", place / "student", tmp_path / "lonely", *CROPS)
    assert f"{tmp_path}/lonely: " in line and "two people" in line
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty: has no picture" in refusal(capsys, "teach", tmp_path / "empty", tmp_path / "run")
    assert "does not exist" in refusal(capsys, "teach", tmp_path / "nowhere", tmp_path / "run")


# --- use --------------------------------------------------------------------------------------------------------------


def test_embed_writes_a_row_per_picture(place: Path, tmp_path: Path, capsys: Capture) -> None:
    folder = place / "unseen/person30"
    found = call(capsys, "embed", place / "student", folder, *CROPS, "--out", tmp_path / "v.npy")
    vectors_Nd = np.load(tmp_path / "v.npy")
    assert vectors_Nd.shape == (6, 128) and vectors_Nd.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors_Nd, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose([one["vector"] for one in found], vectors_Nd, atol=1e-6)
    assert [one["status"] for one in found] == ["ok"] * 6 and found[0]["box"] == [0, 0, 96, 96]
    line = refusal(capsys, "embed", place / "student", folder, *CROPS, "--out", tmp_path / "nowhere/v.npy")
    assert "nowhere/v.npy: cannot be written (No such file or directory)" in line


ODD: dict[str, tuple[str, Callable[[Path], None]]] = {
    "1x1.png": ("too small", lambda path: Image.new("RGB", (1, 1)).save(path)),
    "8x8.png": ("too small", lambda path: Image.fromarray(noise(8)).save(path)),
    "grey.png": ("ok", lambda path: Image.fromarray(noise(40)[..., 0]).save(path)),
    "alpha.png": ("ok", lambda path: Image.fromarray(np.dstack([noise(40), noise(40)[..., :1]])).save(path)),
    "deep.png": ("ok", lambda path: Image.fromarray(noise(40)[..., 0].astype(np.uint16) * 257).save(path)),
    "cmyk.jpg": ("ok", lambda path: Image.fromarray(noise(40)).convert("CMYK").save(path)),
    "black.png": ("no face", lambda path: Image.new("RGB", (40, 40)).save(path)),
    "cut.jpg": ("unreadable", lambda path: path.write_bytes(jpeg()[:900])),
    "empty.jpg": ("unreadable", lambda path: path.touch()),
    "text.jpg": ("unreadable", lambda path: path.write_text("not a picture")),
    "gone.jpg": ("unreadable", lambda path: None),
    "naïve 顔.png": ("ok", lambda path: Image.fromarray(noise(40)).save(path)),
}


def noise(side: int) -> Any:
    return np.random.default_rng(side).integers(0, 256, (side, side, 3), np.uint8)


def jpeg() -> bytes:
    packed = io.BytesIO()
    Image.fromarray(noise(40)).save(packed, "JPEG")
    return packed.getvalue()


def test_odd_pictures_have_a_status_each_and_the_others_go_on(place: Path, tmp_path: Path, capsys: Capture) -> None:
    for name, (_, make) in ODD.items():
        make(tmp_path / name)
    found = call(capsys, "embed", place / "student", *(tmp_path / name for name in ODD), *CROPS)
    assert {Path(one["picture"]).name: one["status"] for one in found} == {name: ODD[name][0] for name in ODD}
    for one in found:
        usable = one["status"] == "ok"
        assert usable == (one["message"] == "") == (one["vector"] is not None)
        assert usable or (one["message"].startswith(f"{one['picture']}: ") and "\n" not in one["message"])
    assert run("embed", place / "student", *(tmp_path / name for name in ODD), *CROPS) == 0
    table = capsys.readouterr().out
    assert "nan" not in table and f"{tmp_path}/gone.jpg: " not in table, "a row names its picture once"
    assert "gone.jpg: there is no such file" in refusal(capsys, "embed", place / "student", tmp_path / "gone.jpg")


def test_names_that_are_no_text_are_shown_with_escapes(
    place: Path, gallery: Path, tmp_path: Path, capsys: Capture
) -> None:
    picture = Path(os.fsdecode(os.fsencode(tmp_path) + b"/Zo\xeb.png"))
    shutil.copy(place / "unseen/person35/5.png", picture)
    wrong = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xf6.png"))
    pictures, key = (picture, wrong), ("--key", place / "staff.key")
    for command in (("embed", place / "student", *pictures), ("identify", gallery, place / "student", *pictures, *key)):
        capsys.readouterr()
        assert run(*command, *CROPS) == 0
        shown = capsys.readouterr().out
        assert r"Zo\xeb.png" in shown and shown.count(r"n\xf6.png") == 1 and "there is no such file" in shown
        assert [Path(one["picture"]).name for one in call(capsys, *command, *CROPS)] == [r"Zo\xeb.png", r"n\xf6.png"]


def test_a_folder_of_records_is_no_folder_of_pictures(place: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "train.rec").touch()
    line = refusal(capsys, "embed", place / "student", tmp_path, *CROPS)
    assert f"{tmp_path}: its pictures lie in train.rec; name files or folders" in line


def test_faces_are_found_in_photographs(place: Path, faces_data: Path, tmp_path: Path, capsys: Capture) -> None:
    """One face, five faces, none; lying on its side with the EXIF mark of it, it is the same face."""
    turned = Image.open(faces_data / "single_face.jpg").transpose(Image.Transpose.ROTATE_90)
    marks = Image.Exif()
    marks[0x0112] = 6  # to be turned by 90 degrees, clockwise
    turned.save(tmp_path / "turned.jpg", exif=marks, quality=95)
    Image.fromarray(noise(200) // 64).save(tmp_path / "nobody.png")
    photos = [faces_data / "single_face.jpg", faces_data / "multi_face.jpg", tmp_path / "nobody.png"]
    single, several, nobody, exif = call(capsys, "embed", place / "student", *photos, tmp_path / "turned.jpg")
    assert [single["status"], several["status"], nobody["status"]] == ["ok", "several faces", "no face"]
    assert "has 5 faces, the largest was taken" in several["message"]
    assert exif["status"] == "ok" and np.dot(single["vector"], exif["vector"]) > 0.99
    assert "no face was found" in refusal(capsys, "embed", place / "student", photos[2])


def test_a_box_without_area_costs_no_other_face(place: Path, tmp_path: Path, capsys: Capture) -> None:
    """UMDFaces: a row of its CSV with a width of 0 is named and left out; a path that leads out of it is refused."""
    shutil.copytree(place / "unseen", tmp_path / "set")
    rows = [f"set/person{30 + n}/{k}.png,{n},0,0,{96 * (n + k > 0)},96" for n in range(3) for k in range(6)]
    header = "FILE,SUBJECT_ID,FACE_X,FACE_Y,FACE_WIDTH,FACE_HEIGHT"
    table = tmp_path / "faces.csv"
    table.write_text("\n".join([header, *rows]))
    report = call(capsys, "evaluate", place / "student", table, *CROPS)
    assert "17 faces of 3 people, seed 0" in report["notes"]
    assert run("evaluate", place / "student", table, *CROPS) == 0
    assert "person30/0.png" in capsys.readouterr().err.splitlines()[0]
    table.write_text("\n".join([header, "../secret.png,1,0,0,9,9"]))
    assert "no path below the root" in refusal(capsys, "evaluate", place / "student", table)


def test_verify_tells_one_person_from_two(place: Path, capsys: Capture) -> None:
    people = place / "unseen"
    same = call(capsys, "verify", place / "student", people / "person35/0.png", people / "person35/1.png", *CROPS)
    other = call(capsys, "verify", place / "student", people / "person35/0.png", people / "person32/1.png", *CROPS)
    assert same["far"] == 0.1 and same["same"] and not other["same"]
    match = faces.verify(people / "person35/0.png", people / "person35/1.png", place / "student", detector="none")
    assert match.score == pytest.approx(same["score"]) and match.same
    assert same["score"] >= same["threshold"] == other["threshold"] > other["score"]


def test_the_installed_command_says_the_same(place: Path) -> None:
    """Through the front door: the verdict on stdout and status 0; one line on stderr and status 2."""
    pictures = [place / "unseen/person35/0.png", place / "unseen/person32/1.png"]
    command = [TENFOLD, "faces", "verify", place / "student", *pictures, *CROPS]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("different people: score ") and answer.stdout.endswith("for a FAR of 0.1\n")
    command = [TENFOLD, "faces", "verify", place / "no\nstudent", *pictures, *CROPS]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (answer.returncode, answer.stdout, answer.stderr.count("\n")) == (2, "", 1)


# --- measures ---------------------------------------------------------------------------------------------------------


def test_evaluate_by_resolution_and_by_group_with_a_page(place: Path, tmp_path: Path, capsys: Capture) -> None:
    rows = [f"person{30 + n},{'north' if n < 3 else 'south'}" for n in range(6)]
    (tmp_path / "groups.csv").write_text("\n".join(["person,region", *rows]))
    groups = ("--groups", tmp_path / "groups.csv", "--column", "region")
    asked = (*CROPS, *groups, "--sizes", "12", "16", "--out", tmp_path / "page")
    report = call(capsys, "evaluate", place / "student", place / "unseen", *asked)
    tables = {table["title"]: table["rows"] for table in report["tables"]}
    assert list(tables) == [
        "Verification", "One shot", "Identification, closed set", "Identification, open set", "Errors by group",
        "Accuracy by resolution",
    ]  # fmt: skip
    assert float(tables["Verification"][0]["AUC"].split()[0]) > 0.9, "patterns are easy"
    assert [row["group"] for row in tables["Errors by group"]] == ["all", "north", "south"]
    assert [row["size [px]"] for row in tables["Accuracy by resolution"]] == [12, 16]
    assert "faces of 16 px" in report["notes"] and not any("Warning" in note for note in report["notes"])
    page = (tmp_path / "page/faces.html").read_text()
    assert "Errors by group" in page and page.count("<svg") == 6
    line = refusal(capsys, "evaluate", place / "student", place / "unseen", *CROPS, *groups[:2], "--column", "age")
    assert "has no column 'age'" in line


def test_a_card_holds_accuracy_by_resolution_and_by_group(place: Path, tmp_path: Path, capsys: Capture) -> None:
    """Training says accuracy at several sizes; `evaluate --on-card` adds groups, once however often it is called."""
    shutil.copytree(place / "student/best", tmp_path / "student")
    rows = [f"person{30 + n},{'north' if n < 3 else 'south'}" for n in range(6)]
    (tmp_path / "groups.csv").write_text("\n".join(["person,group", *rows]))
    asked = (place / "unseen", *CROPS, "--groups", tmp_path / "groups.csv", "--on-card")
    for _ in range(2):
        call(capsys, "evaluate", tmp_path / "student", *asked)
    assert run("card", tmp_path / "student") == 0
    card = capsys.readouterr().out
    assert card.count("## Measured on people held back") == card.count("## Measured on unseen") == 1
    assert all(f"| this student | {size} | " in card for size in (16, 20, 24, 32, 48))
    assert "| north | " in card and card.index("| north | ") > card.index("## Measured on unseen")
    assert card.count("## Versions") == 1
    call(capsys, "export", tmp_path / "student", tmp_path / "student.onnx")
    assert "give the model's folder" in refusal(capsys, "evaluate", tmp_path / "student.onnx", *asked)


def test_evaluate_warns_of_pictures_that_the_model_has_seen(place: Path, tmp_path: Path, capsys: Capture) -> None:
    """Those trained on, and those calibrated on; and of one picture in two folders."""
    shutil.copytree(place / "unseen", tmp_path / "test")
    shutil.copy(place / "public/person10/0.png", tmp_path / "test/person30/again.png")
    command = ("evaluate", place / "student", tmp_path / "test", *CROPS)
    [warning] = [note for note in call(capsys, *command)["notes"] if "Warning" in note]
    assert warning.startswith("Warning: 1 pictures, such as person30/again.png, are among those that the model was")
    shutil.copytree(place / "student", tmp_path / "student")
    assert run("calibrate", tmp_path / "student", place / "unseen", *CROPS) == 0
    notes = call(capsys, "evaluate", tmp_path / "student", tmp_path / "test", *CROPS)["notes"]
    assert any(note.startswith("Warning: 37 pictures") for note in notes)
    shutil.copy(place / "unseen/person30/0.png", tmp_path / "test/person31/double.png")
    assert run(*command) == 0
    assert "person31/double.png: is the same picture as person30/0.png" in capsys.readouterr().err


def test_what_was_calibrated_on_is_not_noted_in_a_model_that_was_passed_on(
    place: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Hashes of people's pictures stay in the run; who has taken a model out of it is told."""
    for name in ("student", "best"):
        shutil.copytree(place / "student/best", tmp_path / name)
        capsys.readouterr()
        assert run("calibrate", tmp_path / name, place / "unseen", *CROPS) == 0
        assert "which pictures these were is not noted" in capsys.readouterr().err
    assert not list(tmp_path.rglob("pictures.sha256"))


def test_evaluate_takes_lfws_pairs(place: Path, tmp_path: Path, capsys: Capture) -> None:
    names = ["Ada", "Bo", "Cy", "Di"]
    for number, name in enumerate(names):
        draw_person(tmp_path / "lfw" / name, 60 + number, 4)
        for picture in sorted((tmp_path / "lfw" / name).iterdir()):
            Image.open(picture).save(picture.with_name(f"{name}_{int(picture.stem) + 1:04d}.jpg"))
            picture.unlink()
    same = [f"{name}\t1\t{n}" for name in names for n in (2, 3)]
    other = [f"{a}\t{n}\t{b}\t{n}" for a, b in zip(names, names[1:] + names[:1], strict=True) for n in (1, 2)]
    folds = [line for fold in range(2) for line in same[fold * 4 : fold * 4 + 4] + other[fold * 4 : fold * 4 + 4]]
    (tmp_path / "pairs.txt").write_text("\n".join(["2\t4", *folds]) + "\n")
    pairs = ("--pairs", tmp_path / "pairs.txt", *CROPS)
    report = call(capsys, "evaluate", place / "student", tmp_path / "lfw", *pairs)
    folds_table = report["tables"][0]["rows"][0]
    assert folds_table["accuracy"] > 0.7
    assert "0 of 16 pairs left out, of which a face was not found" in report["notes"]


def test_a_person_with_one_picture_makes_no_genuine_pair(place: Path, tmp_path: Path, capsys: Capture) -> None:
    for number, pictures in enumerate((2, 2, 1)):
        draw_person(tmp_path / f"set/{number}", 70 + number, pictures)
    report = call(capsys, "evaluate", place / "student", tmp_path / "set", *CROPS)
    assert report["notes"][0] == "5 faces of 3 people, seed 0"
    assert "2 genuine and 8 impostor pairs of 3 people" in report["tables"][0]["notes"]


def test_evaluate_takes_tinyface(place: Path, tmp_path: Path, capsys: Capture) -> None:
    """Ranks of its probes among its gallery and distractors."""
    test = tmp_path / "tinyface/Testing_Set"
    for folder in ("Probe", "Gallery_Match", "Gallery_Distractor"):
        (test / folder).mkdir(parents=True)
    for number in range(3):
        draw_person(tmp_path / "drawn" / str(number), 80 + number, 3)
        pictures = sorted((tmp_path / "drawn" / str(number)).iterdir())
        for picture, name in zip(pictures, ("Probe", "Gallery_Match", "Gallery_Match"), strict=True):
            Image.open(picture).save(test / name / f"{number + 1}_{picture.stem}.jpg")
    for number in range(4):
        draw_person(tmp_path / "others" / str(number), 90 + number, 1)
        Image.open(tmp_path / f"others/{number}/0.png").save(test / f"Gallery_Distractor/{number}.jpg")
    Image.open(tmp_path / "drawn/0/0.png").resize((5, 4)).save(test / "Probe/1_0.jpg")  # as small as they come
    for number in (1, 2):
        (test / f"Gallery_Match/2_{number}.jpg").write_text("not a picture")
    report = call(capsys, "evaluate", place / "student", tmp_path / "tinyface", *CROPS)
    used = report["tables"][1]["rows"][0]
    assert (used["probes"], used["gallery"], used["distractors"]) == (3, 4, 4)
    assert report["notes"] == [
        "faces of 16 px", "2 of 13 faces left out, which cannot be used",
        "1 of 3 probes left out, of whose person no gallery face can be used",
    ]  # fmt: skip


def test_big_faces_are_compared_with_small_ones(place: Path, tmp_path: Path, capsys: Capture) -> None:
    """A gallery of the teacher's vectors answers for the student's, at a threshold calibrated for the two."""
    shutil.copytree(place / "adapter", tmp_path / "adapter")
    big = (tmp_path / "adapter", "--teacher", place / "teacher")
    found = call(capsys, "calibrate", big[0], place / "unseen", *big[1:], "--probes", place / "student", *CROPS)
    assert found["far"] == 0.01 and json.loads((tmp_path / "adapter/best/threshold-probes.json").read_text()) == found
    pair = [place / f"unseen/person30/{number}.png" for number in (0, 1)]
    assert call(capsys, "verify", big[0], *pair, *big[1:], *CROPS)["threshold"] is None, "big against big has none"
    own = call(capsys, "calibrate", big[0], place / "unseen", *big[1:], *CROPS, "--far", "0.2")
    assert call(capsys, "verify", big[0], *pair, *big[1:], *CROPS)["threshold"] == own["value"] != found["value"]
    key = ("--key", place / "staff.key", *CROPS)
    folder, path = place / "unseen/person30", tmp_path / "big.gallery"
    assert run("enroll", path, big[0], "Ada", folder, "--consent", "form 1", *big[1:], *key) == 0
    assert Gallery.open(path, read_key(place / "staff.key")).card.threshold == found["value"]
    small = call(capsys, "identify", path, place / "student", folder / "0.png", *key)
    large = call(capsys, "identify", path, big[0], folder / "0.png", *big[1:], *key)
    assert small[0]["score"] is not None and large[0]["person"] == "Ada"


# --- galleries --------------------------------------------------------------------------------------------------------


def test_a_gallery_from_enrolling_to_forgetting(place: Path, gallery: Path, capsys: Capture) -> None:
    key = ("--key", place / "staff.key")
    questions = [place / "unseen" / name / "5.png" for name in ("person35", "person32", "person34")]
    found = call(capsys, "identify", gallery, place / "student", *questions, *key, *CROPS)
    assert [one["person"] for one in found[:2]] == ["Ada", "Zoë Ångström"]
    persons = call(capsys, "people", gallery, *key)
    assert [(one["name"], one["templates"], one["until"]) for one in persons] == [
        ("Ada", 5, "2099-12-31"), ("Zoë Ångström", 5, "2099-12-31"),
    ]  # fmt: skip
    assert persons[0]["consents"][0]["text"] == "form 17"
    assert run("forget", gallery, "Ada", *key) == 0
    found = call(capsys, "identify", gallery, place / "student", *questions, *key, *CROPS)
    assert "Ada" not in [one["person"] for one in found]
    audit = call(capsys, "people", gallery, "--show", "audit", *key)
    assert [line["what"] for line in audit] == ["created", "enrolled", "enrolled", "forgotten"]
    assert "Ada" not in json.dumps(audit) and "Ada" not in gallery.read_bytes().decode("latin-1")


def test_renewal_and_the_end_of_retention(place: Path, gallery: Path, tmp_path: Path, capsys: Capture) -> None:
    assert run("key", tmp_path / "new.key") == 0
    assert run("renew", gallery, tmp_path / "new.key", "--key", place / "staff.key") == 0
    assert "another key" in refusal(capsys, "people", gallery, "--key", place / "staff.key")
    assert len(call(capsys, "people", gallery, "--key", tmp_path / "new.key")) == 2
    assert run("purge", gallery, "--key", tmp_path / "new.key") == 0
    assert capsys.readouterr().out == "0 people removed\n"


def test_the_key_may_come_from_the_environment(
    place: Path, gallery: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert "TENFOLD_GALLERY_KEY" in refusal(capsys, "people", gallery)
    monkeypatch.setenv("TENFOLD_GALLERY_KEY", (place / "staff.key").read_text().strip())
    assert len(call(capsys, "people", gallery)) == 2


def test_what_a_gallery_refuses(place: Path, gallery: Path, tmp_path: Path, capsys: Capture) -> None:
    """Each in one line, and the gallery stays as it was."""
    before = gallery.read_bytes()
    key, picture = ("--key", place / "staff.key", *CROPS), place / "unseen/person32/0.png"
    enroll = ("enroll", gallery, place / "student")
    consent = ("--consent", "form 18")
    assert "--consent" in refusal(capsys, *enroll, "Bo", picture, *key)
    assert "has passed" in refusal(capsys, *enroll, "Bo", picture, *key, *consent, "--until", "2020-01-01")
    assert "is no day" in refusal(capsys, *enroll, "Bo", picture, *key, *consent, "--until", "soon")
    assert "path separators" in refusal(capsys, *enroll, "../../Bo", picture, *key, *consent)
    assert "nobody called Bo" in refusal(capsys, "forget", gallery, "Bo", *key[:2])
    assert "never written over" in refusal(capsys, "key", place / "staff.key")
    assert "none.png: there is no such file" in refusal(capsys, *enroll, "Bo", tmp_path / "none.png", *key, *consent)
    shutil.copy(place / "staff.key", tmp_path / "open.key")
    os.chmod(tmp_path / "open.key", 0o644)
    assert "can be read by others" in refusal(capsys, "people", gallery, "--key", tmp_path / "open.key")
    assert run("key", tmp_path / "other.key") == 0
    assert "another key" in refusal(capsys, "people", gallery, "--key", tmp_path / "other.key")
    assert gallery.read_bytes() == before


def test_a_picture_of_several_people_is_not_enrolled(
    place: Path, gallery: Path, faces_data: Path, capsys: Capture
) -> None:
    """Whose face would be kept? The consent is of one of them."""
    before, photos = gallery.read_bytes(), [faces_data / f"{name}_face.jpg" for name in ("single", "multi")]
    asked = (*photos, "--consent", "form 18", "--key", place / "staff.key")
    line = refusal(capsys, "enroll", gallery, place / "student", "Bo", *asked)
    assert f"{photos[1]}: has 5 faces" in line and "cut out the one you mean" in line
    assert gallery.read_bytes() == before


def test_a_refused_enrolment_makes_no_gallery(place: Path, tmp_path: Path, capsys: Capture) -> None:
    path, picture = tmp_path / "new.gallery", place / "unseen/person32/0.png"
    key, consent = ("--key", place / "staff.key", *CROPS), ("--consent", "form 18")
    enroll = ("enroll", path, place / "student")
    assert "path separators" in refusal(capsys, *enroll, "../Bo", picture, *key, *consent)
    assert "has passed" in refusal(capsys, *enroll, "Bo", picture, *key, *consent, "--until", "2020-01-01")
    assert "control characters" in refusal(capsys, *enroll, "Bo", picture, *key, "--consent", "form\x1b18")
    assert not list(tmp_path.iterdir())


def test_a_gallery_of_an_unsure_threshold_says_so(place: Path, tmp_path: Path, capsys: Capture) -> None:
    """Calibrated on two people, a FAR of 1 % may be one of any size: who makes a gallery is told."""
    shutil.copytree(place / "student/best", tmp_path / "student")
    for number in (0, 1):
        shutil.copytree(place / f"unseen/person3{number}", tmp_path / f"two/person3{number}")
    assert run("calibrate", tmp_path / "student", tmp_path / "two", *CROPS) == 0
    picture, key = place / "unseen/person32/0.png", ("--key", place / "staff.key", *CROPS)
    for times in (1, 0):
        capsys.readouterr()
        assert run("enroll", tmp_path / "g", tmp_path / "student", "Bo", picture, *key, "--consent", "form 18") == 0
        assert capsys.readouterr().err.count("gets an unsure threshold") == times


def test_another_model_or_dimension_does_not_mix(place: Path, gallery: Path, tmp_path: Path, capsys: Capture) -> None:
    options = (*SHORT, "--method", "scratch", "--epochs", "1", "--validation", "0.4", "--width", "0.25")
    picture, key = place / "unseen/person30/5.png", ("--key", place / "staff.key", *CROPS)
    for name, dimension in (("other", "128"), ("narrow", "64")):
        assert run("distill", place / "public", tmp_path / name, *options, "--dimension", dimension) == 0
        line = refusal(capsys, "identify", gallery, tmp_path / name, picture, *key)
        assert "holds templates of model" in line and f"dimension {dimension}" in line
        enroll = ("enroll", gallery, tmp_path / name, "Bo", picture, "--consent", "form 18")
        assert "make a new gallery" in refusal(capsys, *enroll, *key)
    (tmp_path / "other/best/threshold.json").unlink()
    new = ("enroll", tmp_path / "new.gallery", tmp_path / "other", "Bo", picture, "--consent", "form 18")
    assert "calibrate" in refusal(capsys, *new, *key)


# --- exports ----------------------------------------------------------------------------------------------------------


def test_an_exported_student_takes_the_folders_place(
    place: Path, gallery: Path, tmp_path: Path, capsys: Capture
) -> None:
    whole = call(capsys, "export", place / "student", tmp_path / "student.onnx")
    bytes8 = call(capsys, "export", place / "student", tmp_path / "8.onnx", "--int8", place / "public", *CROPS)
    assert whole["bytes"] > 2 * bytes8["bytes"] and bytes8["bytes of weights"] <= 300_000
    assert bytes8["mean cosine to float32"] > 0.99
    folder = place / "unseen/person35"
    vectors = [
        np.array([one["vector"] for one in call(capsys, "embed", model, folder, *CROPS)])
        for model in (place / "student", tmp_path / "student.onnx")
    ]
    np.testing.assert_allclose(*vectors, atol=1e-4)
    key = ("--key", place / "staff.key", *CROPS)
    found = call(capsys, "identify", gallery, tmp_path / "8.onnx", folder / "5.png", *key)
    assert found[0]["person"] == "Ada"


def test_other_onnx_files_are_no_students(place: Path, tmp_path: Path, capsys: Capture) -> None:
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    values = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "some", values[:1], values[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "some.onnx")
    picture = place / "unseen/person30/0.png"
    assert "is no student" in refusal(capsys, "embed", tmp_path / "some.onnx", picture, *CROPS)
    assert "no such file" in refusal(capsys, "embed", tmp_path / "none.onnx", picture, *CROPS)
    assert "is of kind 'adapter'" in refusal(capsys, "embed", place / "adapter", picture, *CROPS)
    assert "is a file" in refusal(capsys, "calibrate", tmp_path / "some.onnx", place / "unseen", *CROPS)
    assert "unknown" in refusal(capsys, "embed", place / "student", picture, "--detector", "retina")


def test_every_verb_has_been_at_work() -> None:
    """No verb without an end-to-end test."""
    text = Path(__file__).read_text()
    assert not [verb for verb in COMMANDS if f'"{verb}"' not in text]
