"""A gallery names whom it may, forgets whom it must, and is whole under every kill and every writer."""

import json
import signal
import struct
import subprocess
import sys
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dying import KILLED_AT_A_STEP
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tenfold.core.errors import InputError
from tenfold.faces import gallery as gallery_module
from tenfold.faces.gallery import Found, Gallery, GalleryCard, Nearest, new_key
from tenfold.faces.templates import Protection, unit_vectors
from tenfold.faces.vault import locked, open_vault, read_header, write_vault

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
D = 16


@dataclass(frozen=True)
class Threshold:
    """What `thresholds.Threshold` offers a gallery."""

    value: float = 0.8
    far: float = 0.01


def faces(people: int, each: int, spread: float = 0.1, seed: int = 0) -> NDArray[np.float32]:
    """Embeddings (people, each, D) around one direction per person."""
    rng = np.random.default_rng(seed)
    rows = np.repeat(rng.standard_normal((people, D)), each, axis=0)
    return np.float32(unit_vectors(rows + spread * rng.standard_normal(rows.shape), D)).reshape(people, each, D)


FACES = faces(8, 6)
NAMES = ["Ann", "Bob", "José", "王小明", "Eve", "Finn", "Gül", "Hal"]


def made(path: Path, people: int = 3, **settings: Any) -> Gallery:
    gallery = Gallery.create(path, KEY, "student 1", D, Threshold(), **settings)
    with gallery.changes():
        for name, vectors in zip(NAMES[:people], FACES, strict=False):
            gallery.enroll(name, vectors[:3], f"form of {name}")
    return gallery


def read_contents(path: Path, key: bytes = KEY) -> bytes:
    return open_vault(path, key).contents


# --- who is who -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code_bits", [None, 512])
def test_the_enrolled_are_named_and_strangers_are_not(tmp_path: Path, code_bits: int | None) -> None:
    gallery = made(tmp_path / "g", 5, code_bits=code_bits)
    for number, name in enumerate(NAMES):
        for found in gallery.match(FACES[number, 3:]):
            assert found.person == (name if number < 5 else None)
            assert (found.score >= 0.8) == (number < 5) and found.threshold == 0.8
            assert found.nearest == ((Nearest(name, found.score),) if number < 5 else ())


def test_scores_are_cosines_with_the_best_template_in_the_order_of_the_true_ones(tmp_path: Path) -> None:
    gallery = Gallery.create(tmp_path / "g", KEY, "m", D, Threshold(-1.0))
    for name, vectors in zip(NAMES, FACES, strict=True):
        gallery.enroll(name, 3 * vectors[:2], "form")
    probe = FACES[2, 5]
    cosines = (FACES[:, :2] @ probe).max(axis=1)
    [found] = gallery.match(probe[None], k=20)
    assert [near.person for near in found.nearest] == [NAMES[at] for at in np.argsort(-cosines)]
    assert np.abs(np.array([near.score for near in found.nearest]) - np.sort(cosines)[::-1]).max() < 1e-5
    assert gallery.match(probe[None], k=3)[0].nearest == found.nearest[:3]


def test_the_threshold_itself_passes_and_the_score_of_a_rejected_face_is_told(tmp_path: Path) -> None:
    axes = np.eye(D)
    gallery = Gallery.create(tmp_path / "g", KEY, "m", D, Threshold(0.6))
    gallery.enroll("Ann", axes[:1], "form")
    probes = [0.6001 * axes[0] + 0.8 * axes[1], 0.599 * axes[0] + 0.8 * axes[1]]
    near, far = gallery.match(probes)
    assert near.person == "Ann" and near.score >= 0.6
    assert (far.person, far.nearest) == (None, ()) and far.score == pytest.approx(0.5994, abs=1e-4)


def test_an_empty_gallery_knows_nobody(tmp_path: Path) -> None:
    with Gallery.create(tmp_path / "g", KEY, "m", D, Threshold()) as gallery:
        assert gallery.match(FACES[0, :1], k=3) == [Found(None, -1.0, 0.8)]
        assert gallery.match(np.zeros((0, D))) == []
        assert (gallery.people(), gallery.expected_fpir(), gallery.purge()) == ([], 0.0, [])


@pytest.mark.parametrize("code_bits", [None, 256])
def test_below_and_above_the_switch_the_answers_are_the_same(tmp_path: Path, code_bits: int | None) -> None:
    many = faces(150, 4, 0.5, seed=3)
    with Gallery.create(tmp_path / "g", KEY, "m", D, Threshold(0.3), code_bits=code_bits) as gallery:
        with gallery.changes():
            for number, vectors in enumerate(many):
                gallery.enroll(f"person {number}", vectors[:3], "form")
                if number % 10 == 0:
                    gallery.enroll(f"double {number}", vectors[:3], "form")  # ties
        expected = gallery.match(many[:, 3], k=5)
    indexed = Gallery.open(tmp_path / "g", KEY, exact_below=100)
    assert indexed.match(many[:, 3], k=5, recall=1.0) == expected
    assert sum(a == b for a, b in zip(indexed.match(many[:, 3], k=5), expected, strict=True)) >= 145


def test_the_chance_of_a_stranger_to_pass_grows_with_the_templates(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g", 5)
    assert gallery.expected_fpir() == pytest.approx(1 - 0.99**15)
    gallery.enroll("Zoe", FACES[7], "form", until=date(9000, 1, 1))
    assert gallery.expected_fpir(date(9000, 1, 2)) == pytest.approx(1 - 0.99**15)


# --- consent, retention, forgetting ---------------------------------------------------------------------------------


@pytest.mark.parametrize("consent", ["", " ", None, True])
def test_nobody_is_enrolled_without_a_recorded_consent(tmp_path: Path, consent: Any) -> None:
    gallery = made(tmp_path / "g", 1)
    before = (tmp_path / "g").read_bytes()
    with pytest.raises(InputError, match="needs a recorded consent"):
        gallery.enroll("Bob", FACES[1], consent)
    assert (tmp_path / "g").read_bytes() == before


def test_each_enrolment_records_its_consent_and_its_time(tmp_path: Path) -> None:
    gallery = Gallery.create(tmp_path / "g", KEY, "m", D, Threshold())
    gallery.enroll("Jose\u0301", FACES[2, :1], " paper form 12 ", until=date(9000, 1, 1))
    person = gallery.enroll("José", FACES[2, 1:3], "web form 7")
    assert gallery.people() == [person] and Gallery.open(tmp_path / "g", KEY).people() == [person]
    assert (person.name, person.templates, person.until) == ("José", 3, date(9000, 1, 1))
    assert [(one.text, one.templates) for one in person.consents] == [("paper form 12", 1), ("web form 7", 2)]
    assert all(time.time() - datetime.fromisoformat(one.time).timestamp() < 60 for one in person.consents)
    assert gallery.enroll("José", FACES[2, :1], "web form 8", until=date(8000, 1, 1)).until == date(8000, 1, 1)


def test_whose_date_has_passed_is_never_matched_and_goes_with_the_purge(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g", 2)
    last = date(9000, 6, 30)
    gallery.enroll("Ann", FACES[0, 3:4], "form", until=last)
    both = FACES[:2, 5]

    def matched(day: date, **settings: Any) -> list[str | None]:
        opened = Gallery.open(tmp_path / "g", KEY, **settings)
        return [found.person for found in opened.match(both, today=day)]

    for options in ({}, {"exact_below": 1}):
        assert matched(last, **options) == ["Ann", "Bob"]
        assert matched(date(9000, 7, 1), **options) == [None, "Bob"]
    [found] = gallery.match(both[:1], k=9, today=date(9000, 7, 1))
    assert found.score < 0.8  # not even its score is told
    assert gallery.purge(last) == [] and [person.name for person in gallery.people()] == ["Ann", "Bob"]
    assert gallery.purge(date(9000, 7, 1)) == ["Ann"] and [person.name for person in gallery.people()] == ["Bob"]
    assert matched(last) == [None, "Bob"]
    assert [(event.what, event.templates) for event in gallery.audit("Ann")][-1] == ("expired", 4)
    with pytest.raises(InputError, match="which has passed"):
        gallery.enroll("Ann", FACES[0], "form", until=date(2020, 1, 1))


def test_a_new_consent_does_not_bring_back_what_has_expired(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes again after the retention date is enrolled anew: with the new templates, consent and date alone."""
    gallery = made(tmp_path / "g", 1)
    today = datetime.now(UTC).date()
    gallery.enroll("Ann", FACES[0, 3:4], "old form", until=today + timedelta(days=1))
    monkeypatch.setattr(gallery_module, "today_or", lambda given: given or today + timedelta(days=2))
    person = gallery.enroll("Ann", FACES[5, :1], "new form")
    assert (person.templates, person.until, [one.text for one in person.consents]) == (1, None, ["new form"])
    assert gallery.match(FACES[0, :1])[0].person is None and gallery.match(FACES[5, :1])[0].person == "Ann"
    assert [(one.what, one.templates) for one in gallery.audit("Ann")][-2:] == [("expired", 4), ("enrolled", 1)]


def test_of_the_forgotten_only_a_line_without_name_consent_or_template_stays(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g", 3)
    rows = Protection(KEY, D).templates(FACES[1, :3])
    held = read_contents(tmp_path / "g")
    assert b"Bob" in held and all(row.tobytes() in held for row in rows)
    assert gallery.forget("Bob") == 3
    left = read_contents(tmp_path / "g")
    assert b"Bob" not in left and not any(row.tobytes() in left for row in rows)
    assert len(left) < len(held) - rows.nbytes
    assert gallery.match(FACES[1, 3:4])[0].person is None
    assert [found.person for found in gallery.match(FACES[[0, 2], 3])] == ["Ann", "José"]
    events = gallery.audit("Bob")
    assert [(event.what, event.templates, event.person) for event in events] == [
        ("enrolled", 3, ""),
        ("forgotten", 3, ""),
    ]
    with pytest.raises(InputError, match="nobody called Bob is enrolled"):
        gallery.forget("Bob")


def test_the_audit_trail_tells_what_was_done_and_names_only_who_is_there(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g", 2)
    gallery.forget("Ann")
    new = new_key(tmp_path / "key")
    gallery.renew(new)
    told = [(event.what, event.person, event.templates) for event in Gallery.open(tmp_path / "g", new).audit()]
    assert told == [
        ("created", "", 0),
        ("enrolled", "", 3),
        ("enrolled", "Bob", 3),
        ("forgotten", "", 3),
        ("renewed", "", 3),
    ]
    assert len(gallery.audit("Ann")) == 2  # the tag outlives the key


def test_a_long_running_reader_knows_at_once_whom_another_process_forgot(tmp_path: Path) -> None:
    made(tmp_path / "g").close()
    reader, writer = (Gallery.open(tmp_path / "g", KEY) for _ in range(2))
    assert reader.match(FACES[0, 3:4])[0].person == "Ann"
    writer.forget("Ann")
    assert reader.match(FACES[0, 3:4])[0].person is None
    (tmp_path / "g").unlink()
    with pytest.raises(InputError, match="No such file"):
        reader.match(FACES[0, 3:4])


# --- models and keys ------------------------------------------------------------------------------------------------


def test_another_model_or_dimension_is_refused_with_both_ids_and_what_to_do(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g")
    for options in ({"model_id": "student 2"}, {"model_id": "student 2", "dimension": 512}):
        with pytest.raises(
            InputError, match=r"model student 1 with dimension 16; model student 2 .*enroll everybody again"
        ):
            Gallery.open(tmp_path / "g", KEY, **options)
    with pytest.raises(InputError, match="dimension 16; this model with dimension 512"):
        Gallery.open(tmp_path / "g", KEY, dimension=512)
    assert Gallery.open(tmp_path / "g", KEY, model_id="student 1", dimension=D).card == gallery.card
    for method in (lambda rows: gallery.match(rows), lambda rows: gallery.enroll("Zoe", rows, "form")):
        with pytest.raises(InputError, match=r"shape \(1, 512\), but this gallery's model gives 16 numbers"):
            method(np.ones((1, 512)))


def test_a_gallery_put_in_place_of_one_of_another_model_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "g").close()
    reader = Gallery.open(tmp_path / "g", KEY, model_id="student 1")
    Gallery.create(tmp_path / "h", KEY, "student 2", D, Threshold()).close()
    (tmp_path / "h").replace(tmp_path / "g")
    with pytest.raises(InputError, match="model student 2 with dimension 16; model student 1"):
        reader.match(FACES[0, :1])


def test_the_header_names_model_dimension_threshold_and_far_without_the_key(tmp_path: Path) -> None:
    made(tmp_path / "g", code_bits=256).close()
    assert GalleryCard(**read_header(tmp_path / "g")) == GalleryCard("student 1", D, 0.8, 0.01, 256)
    data = (tmp_path / "g").read_bytes()
    assert b"Ann" not in data and b"form" not in data
    assert (tmp_path / "g").stat().st_mode & 0o777 == 0o600


def test_the_wrong_key_opens_nothing(tmp_path: Path) -> None:
    made(tmp_path / "g").close()
    with pytest.raises(InputError, match="was written under another key"):
        Gallery.open(tmp_path / "g", OTHER)
    with pytest.raises(InputError, match="the key is 3 bytes; it must be 32"):
        Gallery.open(tmp_path / "g", b"abc")


def test_a_byte_changed_anywhere_is_noticed(tmp_path: Path) -> None:
    made(tmp_path / "g").close()
    data = (tmp_path / "g").read_bytes()
    for place in range(0, len(data), 7):
        (tmp_path / "g").write_bytes(data[:place] + bytes([data[place] ^ 4]) + data[place + 1 :])
        with pytest.raises(InputError):
            Gallery.open(tmp_path / "g", KEY)


def test_renewal_gives_the_templates_of_the_new_key_and_the_old_one_opens_nothing(tmp_path: Path) -> None:
    gallery, path = made(tmp_path / "g", 8), tmp_path / "g"
    (tmp_path / "backup").write_bytes(path.read_bytes())
    probes = FACES[:, 3]
    before = gallery.match(probes, k=3)
    reader = Gallery.open(path, KEY)
    gallery.renew(OTHER)
    expected = Protection(OTHER, D).templates(FACES[:, :3].reshape(-1, D))
    stored = np.frombuffer(read_contents(path, OTHER)[-expected.nbytes :], "<f4").reshape(-1, D)
    assert np.abs(stored - expected).max() < 1e-6
    old = np.frombuffer(read_contents(tmp_path / "backup")[-expected.nbytes :], "<f4").reshape(-1, D)
    assert np.abs((old * stored).sum(axis=1)).mean() < 0.35  # chance in 16 dimensions: 0.2
    for opened in (gallery, Gallery.open(path, OTHER)):
        for one, other in zip(opened.match(probes, k=3), before, strict=True):
            assert (one.person, one.score) == (other.person, pytest.approx(other.score, abs=1e-5))
    for refused in (lambda: Gallery.open(path, KEY), lambda: reader.match(probes)):
        with pytest.raises(InputError, match="under another key"):
            refused()
    gallery.enroll("Ann", FACES[0, 4:5], "form")  # the open gallery goes on with the new key
    assert Gallery.open(path, OTHER).people()[0].templates == 4


def test_many_renewals_wear_nothing_off(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g", 8)
    before = [found.score for found in gallery.match(FACES[:, 3])]
    for number in range(40):
        gallery.renew(bytes([number] * 32))
    assert np.abs(np.array([found.score for found in gallery.match(FACES[:, 3])]) - before).max() < 1e-5


def test_codes_cannot_be_renewed_and_a_key_not_by_itself(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="make a new gallery under the new key and enroll again"):
        made(tmp_path / "codes", code_bits=256).renew(OTHER)
    gallery = made(tmp_path / "g")
    with pytest.raises(InputError, match="is the present one"):
        gallery.renew(KEY)
    with pytest.raises(InputError, match="must be 32 bytes"):
        gallery.renew(b"")


# --- writers and kills ----------------------------------------------------------------------------------------------


def test_changes_of_a_block_come_together_or_not_at_all(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g", 1)
    before = (tmp_path / "g").read_bytes()

    def stumble() -> None:
        with gallery.changes():
            gallery.enroll("Bob", FACES[1], "form")
            gallery.forget("Ann")
            gallery.forget("Ann")

    with pytest.raises(InputError, match="nobody called Ann"):
        stumble()
    with gallery.changes():
        pass
    assert (tmp_path / "g").read_bytes() == before
    with gallery.changes():
        gallery.enroll("Bob", FACES[1], "form")
        with pytest.raises(InputError, match="zero or holds NaN"):
            gallery.enroll("Bob", np.full((1, D), np.nan), "form")
        gallery.forget("Ann")
        assert [person.name for person in gallery.people()] == ["Ann"]
        assert (tmp_path / "g").read_bytes() == before
    assert [(person.name, person.templates) for person in gallery.people()] == [("Bob", 6)]


WRITER = """
import sys
import numpy as np
from tenfold.faces.gallery import Gallery
from tenfold.faces.vault import locked
locked.__wrapped__.__defaults__ = (600.0,)  # other writers are waited for as long as it takes
gallery = Gallery.open(sys.argv[1], bytes(range(32)))
for number in range(10):
    gallery.enroll(f"{sys.argv[2]} {number}", np.eye(16)[number : number + 1], "form")
"""


def test_two_processes_that_write_lose_nothing(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g", 1)
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path / "g"), name]) for name in "ab"]
    while any(writer.poll() is None for writer in writers):
        assert gallery.match(FACES[0, 3:4])[0].person == "Ann"
    assert [writer.returncode for writer in writers] == [0, 0]
    expected = {"Ann"} | {f"{name} {number}" for name in "ab" for number in range(10)}
    assert {person.name for person in gallery.people()} == expected


def test_threads_may_match_while_others_enroll(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery, wrong = made(tmp_path / "g", 2), []
    monkeypatch.setattr(locked.__wrapped__, "__defaults__", (600.0,))  # type: ignore[attr-defined]

    def look() -> None:
        for _ in range(60):
            people = [found.person for found in gallery.match(FACES[:2, 3])]
            if people != ["Ann", "Bob"]:
                wrong.append(people)

    def write(name: str) -> None:
        for number in range(8):
            gallery.enroll(f"{name} {number}", FACES[3, :1], "form")

    threads = [threading.Thread(target=look), threading.Thread(target=look)]
    threads += [threading.Thread(target=write, args=(name,)) for name in "xy"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong and len(gallery.people()) == 18


def test_a_writer_that_waits_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gallery = made(tmp_path / "g", 1)
    monkeypatch.setattr(locked.__wrapped__, "__defaults__", (0.05,))  # type: ignore[attr-defined]
    with locked(tmp_path / "g"), pytest.raises(InputError, match="being written by somebody else"):
        gallery.forget("Ann")
    assert gallery.forget("Ann") == 3


KILLED = (
    KILLED_AT_A_STEP
    + """
import numpy as np
from tenfold.faces.gallery import Gallery
gallery = Gallery.open(sys.argv[1], bytes(range(32)))
gallery.enroll("Zoe", np.tile(np.eye(16), (20, 1)), "form")
gallery.forget("Zoe")
"""
)


@pytest.mark.parametrize("steps", range(6))
def test_a_kill_while_it_writes_leaves_the_gallery_before_or_after(steps: int, tmp_path: Path) -> None:
    """Before each of the three steps of enrolling, and of forgetting; the second one counts, as in `test_vault.py`."""
    gallery = made(tmp_path / "g", 2)
    child = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "g"), str(steps)], check=False)
    assert child.returncode == -signal.SIGKILL
    people = {person.name: person.templates for person in Gallery.open(tmp_path / "g", KEY).people()}
    assert people == {"Ann": 3, "Bob": 3} | ({"Zoe": 320} if 2 <= steps < 5 else {})
    assert gallery.match(FACES[0, 3:4])[0].person == "Ann"
    gallery.enroll("Zoe", FACES[5], "form")
    assert not list(tmp_path.glob("*.partial"))


# --- bad input ------------------------------------------------------------------------------------------------------


def test_a_gallery_is_not_made_over_anything(tmp_path: Path) -> None:
    made(tmp_path / "g").close()
    (tmp_path / "link").symlink_to("nowhere")
    for place in ("g", "link", "."):
        with pytest.raises(InputError, match="exists; open it, or choose another name"):
            Gallery.create(tmp_path / place, KEY, "m", D, Threshold())
    with pytest.raises(InputError, match="choose another place"):
        Gallery.create(tmp_path / "missing/g", KEY, "m", D, Threshold())


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"model_id": ""}, "model_id is ''"),
        ({"model_id": "a\nb"}, "model_id"),
        ({"model_id": 3}, "model_id is 3"),
        ({"dimension": 1}, "dimension is 1"),
        ({"threshold": Threshold(1.5)}, "threshold is 1.5; it must be a cosine"),
        ({"threshold": Threshold(float("nan"))}, "threshold is nan"),
        ({"threshold": Threshold(0.5, 0)}, "FAR is 0"),
        ({"threshold": Threshold(0.5, 1.0)}, "FAR is 1"),
        ({"threshold": Threshold("high")}, "threshold is .*value='high'.*: calibrate one"),
        ({"threshold": 0.5}, "threshold is 0.5; it needs a value and its FAR"),
        ({"code_bits": 100}, "code_bits is 100"),
        ({"exact_below": 0}, "exact_below is 0"),
        ({"key": b"short"}, "the key is 5 bytes"),
    ],
)
def test_a_gallery_is_not_made_of_nonsense(tmp_path: Path, changed: dict[str, Any], complaint: str) -> None:
    given = {"key": KEY, "model_id": "m", "dimension": D, "threshold": Threshold(), **changed}
    with pytest.raises(InputError, match=complaint):
        Gallery.create(tmp_path / "g", **given)
    assert not (tmp_path / "g").exists()


def test_numbers_of_numpy_are_numbers(tmp_path: Path) -> None:
    threshold = Threshold(np.float32(0.5), np.float64(0.01))  # type: ignore[arg-type]
    gallery = Gallery.create(tmp_path / "g", KEY, "m", np.int64(D), threshold, code_bits=np.int64(256))  # type: ignore[arg-type]
    assert Gallery.open(tmp_path / "g", KEY).card == gallery.card == GalleryCard("m", D, 0.5, 0.01, 256)


def test_questions_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    gallery = made(tmp_path / "g")
    for k in (0, -1, 1.0, True, None):
        with pytest.raises(InputError, match="k is"):
            gallery.match(FACES[0], k=k)  # type: ignore[arg-type]
    for recall in (0, 1.1, float("nan"), "all"):
        with pytest.raises(InputError, match="recall is"):
            gallery.match(FACES[0], recall=recall)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="today is '2030-01-01'"):
        gallery.match(FACES[0], today="2030-01-01")  # type: ignore[arg-type]
    for rows in (np.zeros((0, D)), np.tile(FACES[0, :1], (998, 1))):
        with pytest.raises(InputError, match=r"more templates make .* of Ann; 1 to 1000 are kept"):
            gallery.enroll("Ann", rows, "form")
    for name in ("../Ann", "Ann\n", "", "a/b"):
        for method in (lambda name: gallery.enroll(name, FACES[0], "form"), gallery.forget, gallery.audit):
            with pytest.raises(InputError, match="person's name"):
                method(name)
    gallery.close()
    with pytest.raises(InputError, match="was closed; open it again"):
        gallery.people()


RECORDS = {"salt": "00" * 32, "people": [], "events": []}


def pack(records: object, rows: bytes = b"") -> bytes:
    text = json.dumps(records).encode()
    return struct.pack("<I", len(text)) + text + rows


@pytest.mark.parametrize(
    "contents",
    [
        *(b"", b"\0\0", b"\xff\xff\xff\xff", pack([]), pack({}), pack(RECORDS, b"rest")),
        *(pack({**RECORDS, **wrong}) for wrong in ({"salt": "0"}, {"salt": ""}, {"people": [None]}, {"events": 3})),
        struct.pack("<I", 50_000) + b"[" * 50_000,
    ],
)
def test_what_a_key_holder_wrote_but_no_gallery_did_is_refused(tmp_path: Path, contents: bytes) -> None:
    write_vault(tmp_path / "g", KEY, asdict(GalleryCard("m", D, 0.8, 0.01)), contents)
    with pytest.raises(InputError, match="something else than people and templates"):
        Gallery.open(tmp_path / "g", KEY)


@pytest.mark.parametrize("header", [{}, {"model_id": "m"}, {"x": 1}, {"dimension": 10**9}, {"code_bits": []}])
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: dict[str, object]) -> None:
    full = {**asdict(GalleryCard("m", D, 0.8, 0.01)), **header} if "model_id" not in header and header else header
    write_vault(tmp_path / "g", KEY, full, pack(RECORDS))
    with pytest.raises(InputError, match="its header does not describe a gallery"):
        Gallery.open(tmp_path / "g", KEY)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_fuzzed_contents_are_a_gallery_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    """Written under the right key: bytes changed, dropped or doubled at random places of a true gallery's contents."""
    path = tmp_path / "g"
    if not path.exists():
        made(path).close()
        (tmp_path / "contents").write_bytes(read_contents(path))
    contents = bytearray((tmp_path / "contents").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place, size = data.draw(st.integers(0, len(contents) - 1)), data.draw(st.integers(0, 9))
        contents[place : place + size] = data.draw(st.binary(max_size=9))
    write_vault(path, KEY, asdict(GalleryCard("student 1", D, 0.8, 0.01)), bytes(contents))
    try:
        gallery = Gallery.open(path, KEY)
    except InputError as error:
        assert "\n" not in str(error)
        return
    gallery.match(FACES[0], k=2)
    gallery.audit()


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20), max_size=5))
def test_any_names_that_pass_come_back(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "g"
    path.unlink(missing_ok=True)
    gallery, kept = Gallery.create(path, KEY, "m", D, Threshold()), {}
    for name in names:
        try:
            person = gallery.enroll(name, FACES[0, :1], "form")
        except InputError:
            continue
        kept[person.name] = person
    assert Gallery.open(path, KEY).people() == list(kept.values())
