"""Keys are kept as keys are; a vault opens with its key and whole, or not at all."""

import hashlib
import hmac
import json
import os
import signal
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from dying import KILLED_AT_A_STEP
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.faces.vault import (
    KEY_VARIABLE,
    derive,
    locked,
    new_key,
    open_vault,
    read_header,
    read_key,
    read_mark,
    write_vault,
)

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
HEADER = {"model_id": "m", "dimension": 4}


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    path = tmp_path / "a.gallery"
    write_vault(path, KEY, HEADER, b"the contents")
    return path


# --- keys -----------------------------------------------------------------------------------------------------------


def test_a_new_key_is_32_random_bytes_in_a_file_of_its_owner_alone(tmp_path: Path) -> None:
    previous = os.umask(0)
    try:
        keys = [new_key(tmp_path / name) for name in "ab"]
    finally:
        os.umask(previous)
    assert len({*keys}) == 2 and all(len(key) == 32 for key in keys)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600
    assert [read_key(tmp_path / "a"), read_key(str(tmp_path / "b"))] == keys
    with pytest.raises(InputError, match="a exists; a key is never written over"):
        new_key(tmp_path / "a")
    assert read_key(tmp_path / "a") == keys[0]


def test_a_key_file_may_hold_the_bytes_themselves(tmp_path: Path) -> None:
    for key in (KEY, b"\n" * 32):
        (tmp_path / "raw").touch(0o600)
        (tmp_path / "raw").write_bytes(key)
        assert read_key(tmp_path / "raw") == key


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620, 0o660, 0o601])
def test_a_key_that_others_may_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    new_key(path)
    path.chmod(mode)
    with pytest.raises(InputError, match=rf"mode {mode:04o}\); run: chmod 600 .*key"):
        read_key(path)


@pytest.mark.parametrize("held", [b"", b"x" * 31, b"x" * 33, b"0" * 63, b"g" * 64, b"0" * 66, b"0" * 10_000])
def test_what_is_no_key_is_refused_with_its_length_and_not_its_text(tmp_path: Path, held: bytes) -> None:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(held)
    with pytest.raises(InputError, match="holds no key: it must be 32 bytes") as refusal:
        read_key(path)
    assert not held or held.decode()[:20] not in str(refusal.value)


def test_places_without_a_key_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for place in ("pipe", ".", "missing", "a\0b", "missing/key"):
        with pytest.raises(InputError, match=place.split("/")[0].replace("\0", ".").replace(".", r"\W")):
            read_key(f"{tmp_path}/{place}")
    with pytest.raises(InputError, match="choose another place"):
        new_key(tmp_path / "missing/key")


def test_the_environment_holds_a_key_as_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, f" {KEY.hex().upper()}\n")
    assert read_key() == KEY
    monkeypatch.setenv(KEY_VARIABLE, "x" * 32)  # a variable holds text: 32 letters are a phrase, no key
    with pytest.raises(InputError, match=KEY_VARIABLE):
        read_key()
    monkeypatch.delenv(KEY_VARIABLE)
    with pytest.raises(InputError, match=f"name a file with one, or set {KEY_VARIABLE}"):
        read_key()


def test_derived_keys_follow_rfc_5869() -> None:
    extracted = hmac.new(bytes(32), KEY, hashlib.sha256).digest()
    info, expected, block = b"tenfold.faces/a purpose", b"", b""
    for number in (1, 2, 3):
        block = hmac.new(extracted, block + info + bytes([number]), hashlib.sha256).digest()
        expected += block
    assert derive(KEY, "a purpose", 80) == expected[:80]
    assert len({derive(KEY, "a"), derive(KEY, "b"), derive(OTHER, "a")}) == 3
    with pytest.raises(InputError, match="31 bytes; it must be 32"):
        derive(KEY[1:], "a")
    with pytest.raises(InputError, match="of type str"):
        derive("0" * 32, "a")  # type: ignore[arg-type]


# --- the file -------------------------------------------------------------------------------------------------------


def test_a_vault_is_what_its_description_says(vault: Path) -> None:
    """Taken apart by hand, with nothing but struct and AES-GCM."""
    data = vault.read_bytes()
    magic, version, size, key_id, nonce = struct.unpack("<8sII16s12s", data[:44])
    assert (magic, version, key_id) == (b"TENVAULT", 1, derive(KEY, "key id", 16))
    assert json.loads(data[44 : 44 + size]) == HEADER
    contents = AESGCM(derive(KEY, "encryption")).decrypt(nonce, data[44 + size :], data[: 44 + size])
    assert contents == b"the contents"
    assert open_vault(vault, KEY) == (HEADER, b"the contents", data[:44])
    assert (read_header(vault), read_mark(vault)) == (HEADER, data[:44])


def test_a_nonce_is_never_used_twice_and_the_contents_never_show(vault: Path) -> None:
    files = []
    for _ in range(50):
        write_vault(vault, KEY, HEADER, b"the contents")
        files.append(vault.read_bytes())
    assert len({data[32:44] for data in files}) == len({data[-28:] for data in files}) == 50
    assert not any(b"contents" in data or KEY in data for data in files)


def test_no_byte_can_be_changed_dropped_or_added(vault: Path) -> None:
    data = vault.read_bytes()
    for place in range(len(data)):
        for changed in (data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :], data[:place]):
            vault.write_bytes(changed)
            with pytest.raises(InputError, match=r"a\.gallery"):
                open_vault(vault, KEY)
    vault.write_bytes(data + b"\0")
    with pytest.raises(InputError, match="is damaged or was changed"):
        open_vault(vault, KEY)


def test_parts_of_two_vaults_under_one_key_do_not_mix(vault: Path, tmp_path: Path) -> None:
    write_vault(tmp_path / "b", KEY, {**HEADER, "model_id": "n"}, b"the contents")
    one, two = vault.read_bytes(), (tmp_path / "b").read_bytes()
    assert len(one) == len(two)
    for cut in (44, len(one) - 28):
        vault.write_bytes(one[:cut] + two[cut:])
        with pytest.raises(InputError, match="damaged"):
            open_vault(vault, KEY)


def test_another_key_is_told_from_damage(vault: Path) -> None:
    with pytest.raises(InputError, match=r"a\.gallery was written under another key"):
        open_vault(vault, OTHER)
    with pytest.raises(InputError, match="the key is 5 bytes"):
        open_vault(vault, b"short")


def test_a_newer_version_asks_for_an_update(vault: Path) -> None:
    data = bytearray(vault.read_bytes())
    data[8] = 2
    vault.write_bytes(data)
    with pytest.raises(InputError, match="version 2; this software reads version 1: update it"):
        open_vault(vault, KEY)


def test_sizes_in_a_file_are_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "huge"
    for size in (0xFFFFFFFF, 1 << 17, 1 << 30):
        path.write_bytes(struct.pack("<8sII16s12s", b"TENVAULT", 1, size, derive(KEY, "key id", 16), bytes(12)))
        os.truncate(path, 1 << 40)  # sparse: a terabyte that takes no room
        tracemalloc.start()
        with pytest.raises(InputError, match="sizes do not fit together"):
            open_vault(path, KEY)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 1 << 20


@settings(max_examples=150)
@given(data=st.binary(max_size=200), ours=st.integers(0, 44), size=st.integers(0, 200))
@example(data=b"", ours=44, size=0)
@example(data=b"[]" + bytes(16), ours=44, size=2)
def test_any_bytes_are_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, ours: int, size: int
) -> None:
    prefix = struct.pack("<8sII16s12s", b"TENVAULT", 1, size, derive(KEY, "key id", 16), bytes(12))
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    path.write_bytes(prefix[:ours] + data)
    with pytest.raises(InputError) as refusal:
        open_vault(path, KEY)
    assert "\n" not in str(refusal.value)


def test_a_header_that_nests_without_end_is_refused(tmp_path: Path) -> None:
    path, text = tmp_path / "deep", b"[" * 60_000
    path.write_bytes(struct.pack("<8sII16s12s", b"TENVAULT", 1, len(text), bytes(16), bytes(12)) + text + bytes(16))
    with pytest.raises(InputError, match="header is no JSON object"):
        read_header(path)


def test_places_without_a_vault_are_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    for place, complaint in [("pipe", "is no file"), ("missing", "No such file"), ("empty", "is no gallery")]:
        with pytest.raises(InputError, match=f"{place}.*{complaint}"):
            open_vault(tmp_path / place, KEY)
    with pytest.raises(InputError, match=r"is no file|directory"):
        open_vault(tmp_path, KEY)
    with pytest.raises(InputError, match="nothing was changed"):
        write_vault(tmp_path / "missing/a", KEY, HEADER, b"")


def test_too_much_is_refused_before_it_is_written(vault: Path) -> None:
    with pytest.raises(InputError, match="header would take"):
        write_vault(vault, KEY, {"a": "x" * 70_000}, b"")
    assert open_vault(vault, KEY).contents == b"the contents"


def test_only_the_owner_reads_a_vault_whatever_a_kill_or_a_stranger_left_there(vault: Path, tmp_path: Path) -> None:
    partial, victim = tmp_path / ".a.gallery.partial", tmp_path / "victim"
    victim.write_text("mine")
    previous = os.umask(0)
    try:
        partial.symlink_to(victim)
        write_vault(vault, KEY, HEADER, b"one")
        partial.write_text("left over")
        write_vault(vault, KEY, HEADER, b"two")
    finally:
        os.umask(previous)
    assert vault.stat().st_mode & 0o777 == 0o600 and not vault.is_symlink()
    assert (victim.read_text(), open_vault(vault, KEY).contents) == ("mine", b"two")
    assert not partial.exists()


def test_a_vault_behind_a_link_is_replaced_where_it_lies(vault: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(vault)
    write_vault(tmp_path / "link", KEY, HEADER, b"new")
    assert (tmp_path / "link").is_symlink() and open_vault(vault, KEY).contents == b"new"


# --- kills, full disks, two writers ---------------------------------------------------------------------------------

CHILD = (
    KILLED_AT_A_STEP
    + """
from tenfold.faces.vault import write_vault
write_vault(pathlib.Path(sys.argv[1]), bytes(range(32)), {}, b"new" * 100_000)
"""
)


@pytest.mark.parametrize(("steps", "expected"), [(0, "old"), (1, "old"), (2, "new"), (3, "new")])
def test_a_kill_at_each_step_of_a_write_leaves_old_or_new(vault: Path, steps: int, expected: str) -> None:
    """Before the sync, before the rename, before the folder's sync; three steps are all."""
    child = subprocess.run([sys.executable, "-c", CHILD, str(vault), str(steps)], timeout=600)
    assert child.returncode == (0 if steps == 3 else -signal.SIGKILL)
    assert open_vault(vault, KEY).contents == {"old": b"the contents", "new": b"new" * 100_000}[expected]
    write_vault(vault, KEY, HEADER, b"goes on")
    assert open_vault(vault, KEY).contents == b"goes on"
    assert [entry.name for entry in vault.parent.iterdir()] == ["a.gallery"]


def test_a_full_disk_leaves_the_old_vault(vault: Path) -> None:
    limited = f"""
import resource, pathlib
from tenfold.core.errors import InputError
from tenfold.faces.vault import write_vault
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_vault(pathlib.Path({str(vault)!r}), bytes(range(32)), {{}}, bytes(100_000))
except InputError as error:
    print(error)
"""
    child = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, timeout=600, check=True)
    assert child.stdout == f"{vault}: File too large; nothing was changed\n"
    assert open_vault(vault, KEY).contents == b"the contents"
    assert [entry.name for entry in vault.parent.iterdir()] == ["a.gallery"]


def test_one_writer_at_a_time_and_a_killed_one_holds_nothing(vault: Path) -> None:
    code = f"""
import pathlib, sys
from tenfold.faces.vault import locked
with locked(pathlib.Path({str(vault)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(InputError, match=r"a\.gallery is being written by somebody else"), locked(vault, 0.1):
            pass
        assert open_vault(vault, KEY).contents == b"the contents"  # readers need no lock
        other.kill()
    with locked(vault, 5), pytest.raises(InputError, match="written by somebody else"), locked(vault, 0.05):
        pass
