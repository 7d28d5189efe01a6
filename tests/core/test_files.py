"""Files and folders are the old one or the new one, whatever stops the writing and whatever the file system can."""

import shutil
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from tenfold.core import files
from tenfold.core.files import replace_file, replace_folder, restore_folder


def break_off(replacement: AbstractContextManager[Path]) -> None:
    with replacement as partial:
        (partial / "half" if partial.is_dir() else partial).write_text("half")
        raise ZeroDivisionError


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replace_file(path) as partial:
        partial.write_text("one")
        assert not path.exists()
    with pytest.raises(ZeroDivisionError):
        break_off(replace_file(path))
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("can_exchange", [True, False])
def test_a_folder_is_replaced_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(files, "exchange", lambda one, other: False)  # as on NFS
    path = tmp_path / "made" / "folder"
    for text in ("one", "two"):
        with replace_folder(path) as partial:
            (partial / "deep").mkdir()
            (partial / "deep/a.txt").write_text(text)
            (partial / text).touch()
    with pytest.raises(ZeroDivisionError):
        break_off(replace_folder(path))
    assert (path / "deep/a.txt").read_text() == "two"
    assert {entry.name for entry in path.iterdir()} == {"deep", "two"}
    assert list(path.parent.iterdir()) == [path]


def test_what_a_kill_left_beside_is_cleared_away_or_brought_back(tmp_path: Path) -> None:
    path, partial, previous = (tmp_path / name for name in ("folder", ".folder.partial", ".folder.previous"))
    for left in (partial, previous):
        left.mkdir()
        (left / "old").touch()
    restore_folder(path)  # the kill came between two renames
    assert {entry.name for entry in path.iterdir()} == {"old"}
    restore_folder(path)
    with replace_folder(path) as fresh:
        assert list(fresh.iterdir()) == []
        (fresh / "new").touch()
    assert {entry.name for entry in path.iterdir()} == {"new"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_amid_the_removal_of_the_older_folder_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "exchange", lambda one, other: False)
    path, previous = tmp_path / "folder", tmp_path / ".folder.previous"
    for folder in (path, previous):
        folder.mkdir()
    (previous / "half").touch()
    with replace_folder(path) as fresh:
        (fresh / "new").touch()
    assert [entry.name for entry in path.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [path]
    previous.mkdir()
    restore_folder(path)
    shutil.rmtree(path)
    restore_folder(path)
    assert not path.exists(), "an old folder does not come back"


def test_a_folder_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with replace_folder(tmp_path / "link") as partial:
        (partial / "new").touch()
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real/new").exists()
