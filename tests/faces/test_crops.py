"""Sets are cropped whole: a bad picture costs itself only, and a killed run goes on where it was."""

import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tenfold.core.errors import InputError
from tenfold.faces.alignment import Detection, HaarDetector
from tenfold.faces.crops import Crops, crop_faces
from tenfold.faces.data import FaceSet, read_faces


@pytest.fixture
def people(tmp_path: Path) -> FaceSet:
    """600 small pictures, more than two pieces of the cache, of which number 300 is broken."""
    rng = np.random.default_rng(0)
    for number in range(600):
        path = tmp_path / "people" / f"person{number % 7}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (20, 20, 3), np.uint8)).save(path)
    faces = read_faces(tmp_path / "people")
    assert isinstance(faces.sources[300], Path)
    faces.sources[300].write_bytes(b"broken")
    return faces


class Counting:
    """Counts the pictures it is shown, and finds all of each to be a face."""

    identity = "counting"

    def __init__(self) -> None:
        self.count = 0

    def detect(self, picture_HWC: np.ndarray) -> list[Detection]:
        self.count += 1
        size = np.array(picture_HWC.shape[1::-1], np.float32)
        points = np.array([[0.3, 0.3], [0.7, 0.3], [0.5, 0.5], [0.35, 0.7], [0.65, 0.7]], np.float32) * size
        return [Detection(np.concatenate([size * 0, size]), points, 1.0)]


class StoppedError(Exception):
    pass


def stop_at(count: int) -> object:
    def progress(phase: str, done: int, total: int) -> None:
        if phase == "crop" and done >= count:
            raise StoppedError

    return progress


def same(one: Crops, other: Crops) -> None:
    np.testing.assert_array_equal(one.crops_NSSC, other.crops_NSSC)
    assert one.statuses == other.statuses and one.messages == other.messages


def test_bad_pictures_have_a_status_and_the_others_a_crop(tmp_path: Path, faces_data: Path) -> None:
    (tmp_path / "Ann").mkdir()
    for number, (name, mode) in enumerate((("multi_face.jpg", "RGB"), ("single_face.jpg", "CMYK")), 1):
        Image.open(faces_data / name).convert(mode).reduce(2).save(tmp_path / "Ann" / f"{number}.jpg")
    (tmp_path / "Ann" / "3.jpg").write_bytes((faces_data / "single_face.jpg").read_bytes()[:9000])
    Image.new("L", (300, 200)).save(tmp_path / "Ann" / "4.png")
    Image.new("RGB", (8, 8)).save(tmp_path / "Ann" / "5.png")
    made = crop_faces(read_faces(tmp_path), HaarDetector(smallest=30))
    assert made.statuses == ("several faces", "ok", "unreadable", "no face", "too small")
    for name, message in zip(made.faces.names, made.messages, strict=True):
        assert message == "" or (message.startswith(f"{name}: ") and "\n" not in message)
    assert not made.crops_NSSC[2:].any()
    usable = made.usable()
    assert usable.faces.names == ("Ann/1.jpg", "Ann/2.jpg") and len(usable.messages) == 2
    np.testing.assert_array_equal(usable.crops_NSSC, made.crops_NSSC[:2])
    assert usable.usable() is usable


def test_the_cache_holds_what_is_made_without_it(people: FaceSet, tmp_path: Path) -> None:
    plain = crop_faces(people, Counting(), side=24)
    cached = crop_faces(people, Counting(), 24, tmp_path / "cache")
    same(plain, cached)
    assert plain.statuses[300] == "unreadable" and plain.statuses.count("ok") == 599
    again = Counting()
    same(cached, crop_faces(people, again, 24, tmp_path / "cache"))
    assert again.count == 0
    assert isinstance(cached.crops_NSSC, np.memmap)


def test_a_cache_is_its_owners_alone(people: FaceSet, tmp_path: Path) -> None:
    """Crops are faces; whatever the umask, nobody else on the machine may look."""
    crop_faces(people, None, 24, tmp_path / "run/cache")
    assert (tmp_path / "run/cache").stat().st_mode & 0o077 == 0


def test_a_stopped_call_goes_on_where_it_was(people: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        crop_faces(people, Counting(), 24, tmp_path / "cache", stop_at(550))  # type: ignore[arg-type]
    rest = Counting()
    resumed = crop_faces(people, rest, 24, tmp_path / "cache")
    assert rest.count == 600 - 512  # two pieces of 256 were there
    same(resumed, crop_faces(people, Counting(), 24))
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_killed_process_leaves_nothing_wrong(people: FaceSet, tmp_path: Path) -> None:
    program = """
import os, signal, sys
from tenfold.faces.crops import crop_faces
from tenfold.faces.data import read_faces
def progress(phase, done, total):
    if phase == "crop" and done >= 400:
        os.kill(os.getpid(), signal.SIGKILL)
crop_faces(read_faces(sys.argv[1]), None, 24, sys.argv[2], progress)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    cache = tmp_path / "cache"
    ended = subprocess.run([sys.executable, "-c", program, tmp_path / "people", cache], env=environment, check=False)
    assert ended.returncode == -signal.SIGKILL
    steps: list[int] = []
    resumed = crop_faces(people, None, 24, cache, lambda phase, done, _: steps.append(done if phase == "crop" else 999))
    same(resumed, crop_faces(people, None, 24))
    assert min(steps) > 256


@pytest.mark.parametrize("damage", ["cut crops", "cut journal", "junk in the journal", "empty journal", "wide journal"])
def test_a_half_filled_cache_that_was_damaged_is_not_believed(people: FaceSet, tmp_path: Path, damage: str) -> None:
    with pytest.raises(StoppedError):
        crop_faces(people, None, 24, tmp_path / "cache", stop_at(599))  # type: ignore[arg-type]
    partial = next((tmp_path / "cache").iterdir())
    crops, journal = partial / "crops.npy", partial / "statuses.jsonl"
    if damage == "cut crops":
        os.truncate(crops, crops.stat().st_size // 2)
    elif damage == "cut journal":
        os.truncate(journal, journal.stat().st_size - 9)
    else:
        lines = journal.read_bytes().splitlines(keepends=True)
        junk = {"junk in the journal": b"[[1, 2, 3]]\n", "empty journal": b"", "wide journal": lines[0] * 9}[damage]
        journal.write_bytes(junk + lines[1] if junk else b"")
    same(crop_faces(people, None, 24, tmp_path / "cache"), crop_faces(people, None, 24))


@pytest.mark.parametrize("damage", ["crops.npy", "statuses.jsonl", "cut"])
def test_a_full_cache_that_was_damaged_is_made_anew(people: FaceSet, tmp_path: Path, damage: str) -> None:
    whole = crop_faces(people, None, 24, tmp_path / "cache")
    expected = replace(whole, crops_NSSC=np.array(whole.crops_NSSC))
    folder = next((tmp_path / "cache").iterdir())
    if damage == "cut":
        os.truncate(folder / "crops.npy", 5000)
    else:
        (folder / damage).unlink()
    same(crop_faces(people, None, 24, tmp_path / "cache"), expected)


def test_other_contents_boxes_sides_and_detectors_have_other_crops(people: FaceSet, tmp_path: Path) -> None:
    few, cache = people.subset(range(5)), tmp_path / "cache"
    boxed = replace(few, boxes=np.tile(np.array([2, 2, 16, 16], np.float32), (5, 1)))
    half = replace(few, boxes=np.full((5, 4), np.nan, np.float32))
    for count, (faces, detector, side) in enumerate(
        [(few, None, 24), (few, Counting(), 24), (few, None, 32), (boxed, None, 24), (half, None, 24)], 1
    ):
        same(crop_faces(faces, detector, side, cache), crop_faces(faces, detector, side))
        assert len(list(cache.iterdir())) == count
    assert isinstance(few.sources[0], Path)
    Image.new("RGB", (20, 20), "red").save(few.sources[0])
    same(crop_faces(few, None, 24, cache), crop_faces(few, None, 24))


def test_two_processes_do_not_fill_one_cache(people: FaceSet, tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        crop_faces(people, None, 24, tmp_path / "cache", stop_at(16))  # type: ignore[arg-type]
    partial = next((tmp_path / "cache").iterdir())
    with open(partial / "lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process"):
            crop_faces(people, None, 24, tmp_path / "cache")


def test_a_cache_that_cannot_be_written_is_named(people: FaceSet, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match="file: crops cannot be kept there"):
        crop_faces(people, None, 24, tmp_path / "file")


def test_progress_counts_up_to_all(people: FaceSet, tmp_path: Path) -> None:
    said: dict[str, list[tuple[int, int]]] = {}

    def progress(phase: str, done: int, total: int) -> None:
        said.setdefault(phase, []).append((done, total))

    crop_faces(people, None, 24, tmp_path / "cache", progress)
    assert set(said) == {"hash", "crop"}
    assert all(steps[-1] == (600, 600) and steps == sorted(steps) for steps in said.values())


def test_an_empty_set_has_no_crops(people: FaceSet, tmp_path: Path) -> None:
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):
        made = crop_faces(people.subset([]), None, 24, cache)
        assert made.crops_NSSC.shape == (0, 24, 24, 3) and made.usable().statuses == ()
