"""Cached features are the teacher's, never another's, and a killed run goes on where it stopped."""

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tenfold.core.errors import InputError
from tenfold.faces.features import teacher_features

CROPS = np.random.default_rng(0).integers(0, 256, (1000, 8, 8, 3), np.uint8)


class Corners:
    """A teacher whose features are the first pixels of a face. It counts faces and may be stopped after some."""

    dimension, size, licence = 6, 8, "none"

    def __init__(self, identity: str = "corners", stop_after: int = 1 << 30, scale: float = 1.0) -> None:
        self.identity, self.left, self.scale, self.seen = identity, stop_after, scale, 0

    def embed(self, crops_BSSC: np.ndarray) -> np.ndarray:
        self.seen += len(crops_BSSC)
        self.left -= len(crops_BSSC)
        if self.left < 0:
            raise KeyboardInterrupt
        with np.errstate(over="ignore"):
            return crops_BSSC.reshape(len(crops_BSSC), -1)[:, :6].astype(np.float32) / 7 * self.scale


EXPECTED = (CROPS.reshape(1000, -1)[:, :6].astype(np.float32) / 7).astype(np.float16)


def test_features_are_the_same_with_and_without_a_cache(tmp_path: Path) -> None:
    for cache in (None, tmp_path / "new" / "cache"):
        features = teacher_features(CROPS, Corners(), cache)
        assert features.dtype == np.float16
        assert np.array_equal(features, EXPECTED)
    assert (tmp_path / "new/cache").stat().st_mode & 0o077 == 0  # biometric data, for their owner alone


def test_they_are_computed_once_and_again_for_other_crops_or_another_teacher(tmp_path: Path) -> None:
    first, again, other = Corners(), Corners(), Corners("other")
    for teacher in (first, again, other):
        teacher_features(CROPS, teacher, tmp_path)
    assert (first.seen, again.seen, other.seen) == (1000, 0, 1000)
    changed = CROPS.copy()
    changed[999, 7, 7, 2] ^= 1
    teacher_features(changed, again, tmp_path)
    assert again.seen == 1000
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("tail", [b"", b"torn row"])
def test_a_run_that_was_stopped_goes_on_before_its_last_block(tmp_path: Path, tail: bytes) -> None:
    with pytest.raises(KeyboardInterrupt):
        teacher_features(CROPS, Corners(stop_after=800), tmp_path)
    (partial,) = tmp_path.iterdir()
    with partial.open("ab") as file:
        file.write(tail)
    rest = Corners()
    assert np.array_equal(teacher_features(CROPS, rest, tmp_path), EXPECTED)
    assert rest.seen == 1000 - 2 * 256  # three blocks of 256 were written; the last is not trusted
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_what_no_run_of_ours_left_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        teacher_features(CROPS, Corners(stop_after=800), tmp_path)
    (partial,) = tmp_path.iterdir()
    partial.write_bytes(b"something else" * 1000)
    assert np.array_equal(teacher_features(CROPS, Corners(), tmp_path), EXPECTED)


KILLED = """
import os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_features as t
class Deadly(t.Corners):
    def embed(self, crops):
        if self.seen >= 512:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed(crops)
t.teacher_features(t.CROPS, Deadly(), Path({cache!r}))
"""


def test_a_killed_process_leaves_rows_that_the_next_goes_on_with(tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), cache=str(tmp_path))
    run = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    assert run.returncode == -signal.SIGKILL
    rest = Corners()
    assert np.array_equal(teacher_features(CROPS, rest, tmp_path), EXPECTED)
    assert rest.seen == 1000 - 256


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        teacher_features(CROPS, Corners(stop_after=300), tmp_path)
    (partial,) = tmp_path.iterdir()
    with partial.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is computing it"):
            teacher_features(CROPS, Corners(), tmp_path)


def test_features_that_float16_cannot_hold_are_refused_with_the_crop(tmp_path: Path) -> None:
    crops = np.zeros((300, 8, 8, 3), np.uint8)
    crops[270] = 255
    for scale in (1e6, 1e38):
        with pytest.raises(InputError, match=r"features of crop 270: are not finite"):
            teacher_features(crops, Corners(scale=scale), tmp_path)


def test_damaged_files_and_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    teacher_features(CROPS, Corners(), tmp_path)
    (path,) = tmp_path.iterdir()
    np.save(path, np.zeros((3, 6), np.float16))
    with pytest.raises(InputError, match="delete it"):
        teacher_features(CROPS, Corners(), tmp_path)
    path.write_bytes(b"cut")
    with pytest.raises(InputError, match="delete it"):
        teacher_features(CROPS, Corners(), tmp_path)
    with pytest.raises(InputError, match="cannot hold features"):
        teacher_features(CROPS, Corners(), path)


def test_no_crops_have_no_features(tmp_path: Path) -> None:
    assert teacher_features(CROPS[:0], Corners(), tmp_path).shape == (0, 6)


def test_progress_counts_to_the_end(tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    teacher_features(CROPS, Corners(), tmp_path, lambda *what: said.append(what))
    assert [done for _, done, _ in said] == [0, 256, 512, 768, 1000]
    assert {total for _, _, total in said} == {1000}
