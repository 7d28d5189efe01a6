"""Galleries of faces that people may lawfully keep: encrypted, with consents, retention dates and an audit trail.

A gallery is one file of `vault` that is replaced whole. Its header names the model, the dimension, the threshold and
the false accept rate the threshold was calibrated at. Its contents, encrypted:

    u32 bytes of JSON · JSON: salt, people (name, templates, until, consents), events · templates of all in this order

There are no pictures in it. Every reading method looks first whether the file was replaced since, so whoever was
forgotten by one process is matched by none.

N probes or vectors · d dimension of embeddings · n numbers of a template (`templates`) · T templates of a person
"""

import json
import math
import os
import secrets
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tenfold.core.errors import InputError
from tenfold.faces import vault
from tenfold.faces.audit import (
    Calibrated,
    Consent,
    Event,
    GalleryCard,
    Happening,
    Person,
    check_consent,
    check_name,
    check_until,
    is_number,
    now,
    tag,
    today_or,
)
from tenfold.faces.templates import EXACT_BELOW, Finder, Protection, check_code_bits, check_dimension
from tenfold.faces.vault import new_key, read_key

__all__ = ["Calibrated", "Found", "Gallery", "GalleryCard", "Nearest", "new_key", "read_key"]

_LENGTH = struct.Struct("<I")
_MOST_TEMPLATES = 1000  # of a person
_BROKEN = (ValueError, KeyError, TypeError, AttributeError, RecursionError, struct.error)


class Nearest(NamedTuple):
    """Somebody a face passes for, and the score, a cosine."""

    person: str
    score: float


@dataclass(frozen=True)
class Found:
    """Whose face it is.

    Attributes:
        person: The best match, or None where nobody reaches the threshold.
        score: Cosine with the best template of all, whether or not it reaches the threshold; -1 where there is none.
        threshold: The gallery's.
        nearest: Up to k people who reach the threshold, best first. Others are not named.
    """

    person: str | None
    score: float
    threshold: float
    nearest: tuple[Nearest, ...] = ()


@dataclass
class _State:
    """What a file holds, decrypted. Never changed once it is a gallery's; `_copy` gives one that may be."""

    mark: bytes
    card: GalleryCard
    protection: Protection
    salt: bytes
    people: dict[str, Person]
    templates: dict[str, NDArray[np.float32]]
    events: list[Event]
    finder: tuple[list[str], Finder] | None = field(default=None, repr=False)

    def note(self, what: Happening, templates: int, person: str | None = None) -> None:
        label = "" if person is None else tag(self.salt, person)
        self.events.append(Event(now(), what, templates, label))

    def remove(self, what: Happening, person: str) -> int:
        count = self.people.pop(person).templates
        del self.templates[person]
        self.note(what, count, person)
        return count


class Gallery:
    """An encrypted gallery, open. Make one by `Gallery.create` or `Gallery.open`; use it in a `with` statement.

    Safe from any number of threads and processes: one writer at a time, the others wait up to ten seconds.

    Example: found = Gallery.open("staff.gallery", read_key("staff.key")).match(model.embed_crops(crops))

    Attributes:
        path: The file.
    """

    def __init__(self, path: Path, key: bytes, exact_below: int) -> None:
        """For `create` and `open`, which see to the file."""
        if not isinstance(exact_below, int) or exact_below < 1:
            raise InputError(f"exact_below is {exact_below!r}; it must be a whole number of templates, 1 or more")
        self.path = path
        self._key: bytes | None = vault.check_key(key)
        self._exact_below = exact_below
        self._wanted: tuple[str | None, int | None] = (None, None)
        self._state: _State | None = None
        self._draft: _State | None = None
        self._writing, self._reading = threading.RLock(), threading.RLock()

    # --- making and opening -----------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        path: Path | str,
        key: bytes,
        model_id: str,
        dimension: int,
        threshold: Calibrated,
        *,
        code_bits: int | None = None,
        exact_below: int = EXACT_BELOW,
    ) -> "Gallery":
        """Make an empty gallery, mode 0600, and open it.

        Args:
            path: The file to make.
            key: 32 bytes, of `read_key` or `new_key`.
            model_id: Of the model whose embeddings will be enrolled and matched.
            dimension: Of these embeddings.
            threshold: For scores of this gallery; codes need one that was calibrated on scores of codes.
            code_bits: Keep only that many signs of each rotated embedding, 256 to 512, instead of its numbers.
            exact_below: Templates from which on an index of `tenfold.search` takes the place of the matrix product.

        Raises:
            InputError: The file exists, the folder does not, or an argument is out of range.
        """
        gallery = cls(Path(path), key, exact_below)
        try:
            value, far = float(threshold.value), float(threshold.far)
        except (AttributeError, TypeError, ValueError):
            raise InputError(
                f"the threshold is {threshold!r:.80}; it needs a value and its FAR: calibrate one"
            ) from None
        card = GalleryCard(model_id, check_dimension(dimension), value, far, check_code_bits(code_bits))
        protection = Protection(key, card.dimension, card.code_bits)
        state = _State(b"", card, protection, secrets.token_bytes(32), {}, {}, [])
        state.note("created", 0)
        with vault.locked(gallery.path):
            if os.path.lexists(gallery.path):
                raise InputError(f"{path} exists; open it, or choose another name")
            gallery._write(state, key)
        return gallery

    @classmethod
    def open(
        cls,
        path: Path | str,
        key: bytes,
        *,
        model_id: str | None = None,
        dimension: int | None = None,
        exact_below: int = EXACT_BELOW,
    ) -> "Gallery":
        """Open a gallery.

        Args:
            path: The file.
            key: The key it was written under.
            model_id: Of the model that will be used with it, if one will.
            dimension: Of that model's embeddings.
            exact_below: As for `create`.

        Raises:
            InputError: No gallery there, another key, damaged, or made for another model or dimension.
        """
        gallery = cls(Path(path), key, exact_below)
        gallery._wanted = (model_id, dimension)
        gallery._current()
        return gallery

    def close(self) -> None:
        """Let go of key and templates; the gallery cannot be used afterwards."""
        self._key = self._state = None

    def __enter__(self) -> "Gallery":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    # --- who is in it -----------------------------------------------------------------------------------------------

    @property
    def card(self) -> GalleryCard:
        """Model, dimension, threshold and its FAR."""
        return self._current().card

    def people(self) -> list[Person]:
        """Who is enrolled, in the order of enrolment, expired ones too until they are purged."""
        return list(self._current().people.values())

    def audit(self, person: str | None = None) -> list[Event]:
        """What was done, oldest first; with a name what was done to that person, forgotten or not.

        Names are filled in for people who are enrolled; of others only the tag is left.
        """
        state = self._current()
        names = {tag(state.salt, name): name for name in state.people}
        wanted = None if person is None else tag(state.salt, check_name(person))
        events = (event for event in state.events if wanted in (None, event.tag))
        return [replace(event, person=names.get(event.tag, "")) for event in events]

    # --- changing it ------------------------------------------------------------------------------------------------

    @contextmanager
    def changes(self) -> Iterator[None]:
        """Write once, at the end of the block, all changes that this thread makes in it; none if it raises.

        Other writers wait meanwhile, and readers, this gallery's own among them, see the file as it was.

        Raises:
            InputError: Another writer is at work for over ten seconds, or the file cannot be read or written.
        """
        with self._writing:
            if self._draft is not None:
                yield  # the outer block writes
                return
            with vault.locked(self.path):
                state = self._current()
                draft = replace(
                    state,
                    people=dict(state.people),
                    templates=dict(state.templates),
                    events=list(state.events),
                    finder=None,
                )
                self._draft = draft
                try:
                    yield
                    if len(draft.events) > len(state.events):
                        self._write(draft, draft.protection.key)
                finally:
                    self._draft = None

    def enroll(self, person: str, vectors_Nd: ArrayLike, consent: str, until: date | None = None) -> Person:
        """Add templates of a person, known already or new, on a recorded consent.

        Where the person's retention date has passed, what was kept is removed first, as by `purge`: a new consent does
        not bring it back.

        Args:
            person: A name in any script, without path separators or control characters.
            vectors_Nd: Embeddings (N, d) of the person's faces, N >= 1; only their directions matter.
            consent: What the person agreed to, or a reference to where that is filed.
            until: The last day on which the person is matched; None keeps what was set before, or no such day.

        Returns:
            The person's record, with what was there before.

        Raises:
            InputError: No consent, a name, date or embeddings that cannot be used, or another writer.
        """
        today = today_or(None)
        name, text, last = check_name(person), check_consent(consent), check_until(until, today)
        with self._drafting() as draft:
            rows = draft.protection.templates(vectors_Nd)
            if name in draft.people and draft.people[name].is_expired(today):
                draft.remove("expired", name)
            old = draft.people.get(name, Person(name, 0, None, ()))
            total = old.templates + len(rows)
            if len(rows) == 0 or total > _MOST_TEMPLATES:
                raise InputError(f"{len(rows)} more templates make {total} of {name}; 1 to {_MOST_TEMPLATES} are kept")
            consents = (*old.consents, Consent(text, now(), len(rows)))
            draft.people[name] = Person(name, total, last or old.until, consents)
            draft.templates[name] = np.concatenate([draft.templates[name], rows]) if old.templates else rows
            draft.note("enrolled", len(rows), name)
            return draft.people[name]

    def forget(self, person: str) -> int:
        """Remove all templates, consents and the name of a person; how many templates went.

        What stays is lines of the audit trail with a tag in place of the name.

        Raises:
            InputError: Nobody of that name is enrolled.
        """
        name = check_name(person)
        with self._drafting() as draft:
            if name not in draft.people:
                raise InputError(f"nobody called {name} is enrolled in {self.path}; `people` lists who is")
            return draft.remove("forgotten", name)

    def purge(self, today: date | None = None) -> list[str]:
        """Remove everybody whose retention date has passed, as `forget` does; their names.

        Args:
            today: The day to compare with; default: the present one, UTC.
        """
        day = today_or(today)
        with self._drafting() as draft:
            expired = [name for name, person in draft.people.items() if person.is_expired(day)]
            for name in expired:
                draft.remove("expired", name)
            return expired

    def renew(self, new_key: bytes) -> None:
        """Turn all templates to a new key and encrypt under it: to the old key's holder they say nothing any more.

        Copies of the file that were made before stay readable with the old key; remove them.

        Raises:
            InputError: A gallery of codes, which cannot be turned, or the key is no key or the present one.
        """
        vault.check_key(new_key)
        with self._drafting() as draft:
            if new_key == draft.protection.key:
                raise InputError("the new key is the present one; make another by new_key")
            if draft.card.code_bits is not None:
                raise InputError(
                    f"{self.path} holds codes, which cannot be turned to another key: "
                    "make a new gallery under the new key and enroll again"
                )
            fresh = Protection(new_key, draft.card.dimension)
            for name, rows in draft.templates.items():
                draft.templates[name] = fresh.templates(draft.protection.vectors(rows))
            draft.protection = fresh
            draft.note("renewed", sum(map(len, draft.templates.values())))

    # --- matching ---------------------------------------------------------------------------------------------------

    def match(
        self, vectors_Nd: ArrayLike, k: int = 1, today: date | None = None, *, recall: float = 0.99
    ) -> list[Found]:
        """Who among the enrolled each face is, or nobody.

        A person's score is that of the best of its templates. People whose retention date has passed are left out.

        Args:
            vectors_Nd: Embeddings (N, d) of the gallery's model.
            k: How many people to name at most for each face.
            today: The day to compare retention dates with; default: the present one, UTC.
            recall: From `exact_below` templates on, the share of nearest templates to find; 1.0 compares with all.

        Returns:
            One Found per embedding.

        Raises:
            InputError: Embeddings of another dimension or unusable, k or recall out of range, or the file is gone.
        """
        if not isinstance(k, int) or isinstance(k, bool) or k < 1:
            raise InputError(f"k is {k!r}; it must be a whole number, 1 or more")
        if not is_number(recall) or not 0 < recall <= 1:
            raise InputError(f"recall is {recall!r}; it must be over 0 and at most 1")
        day, state = today_or(today), self._current()
        probes = state.protection.templates(vectors_Nd)
        names, finder = self._finder(state, day)
        found = []
        for people, products in finder.nearest(probes, k, recall):
            scores = np.clip(state.protection.scores(products), -1, 1).astype(np.float32).tolist()
            reached = [
                Nearest(names[number], score)
                for number, score in zip(people, scores, strict=True)
                if score >= state.card.threshold
            ]
            best = scores[0] if scores else -1.0
            found.append(Found(reached[0].person if reached else None, best, state.card.threshold, tuple(reached)))
        return found

    def expected_fpir(self, today: date | None = None) -> float:
        """The share of strangers that would pass for somebody in here, were all comparisons independent.

        1 - (1 - FAR)^templates: a threshold that is safe for one comparison is not so for a big gallery.
        """
        day, state = today_or(today), self._current()
        count = sum(person.templates for person in state.people.values() if not person.is_expired(day))
        return -math.expm1(count * math.log1p(-state.card.far))

    def _finder(self, state: _State, day: date) -> tuple[list[str], Finder]:
        """Names by number, and a Finder of exactly the people who may be matched on that day."""
        names = [name for name, person in state.people.items() if not person.is_expired(day)]
        with self._reading:
            if state.finder is None or state.finder[0] != names:
                rows = [state.templates[name] for name in names]
                numbers = state.card.code_bits or state.card.dimension
                state.finder = names, Finder(rows, numbers, self._exact_below)
            return state.finder

    # --- the file ---------------------------------------------------------------------------------------------------

    def _current(self) -> _State:
        """What the file holds now."""
        with self._reading:
            if self._key is None:
                raise InputError(f"{self.path} was closed; open it again")
            if self._state is None or vault.read_mark(self.path) != self._state.mark:
                state = _read(self.path, self._key)
                state.card.require(*self._wanted, self.path)
                self._state = state
            return self._state

    @contextmanager
    def _drafting(self) -> Iterator[_State]:
        with self.changes():
            assert self._draft is not None
            yield self._draft

    def _write(self, state: _State, key: bytes) -> None:
        contents = _contents(state)
        with self._reading:
            state.mark = vault.write_vault(self.path, key, asdict(state.card), contents)
            self._key, self._state = key, state


def _card(path: Path, header: dict[str, Any]) -> GalleryCard:
    try:
        return GalleryCard(**header)
    except (TypeError, InputError) as error:
        raise InputError(f"{path} is damaged: its header does not describe a gallery ({error})") from None


def _contents(state: _State) -> bytes:
    records = {
        "salt": state.salt.hex(),
        "people": [person.to_json() for person in state.people.values()],
        "events": [event.to_json() for event in state.events],
    }
    text = json.dumps(records).encode()
    rows = (state.protection.to_bytes(state.templates[name]) for name in state.people)
    return b"".join([_LENGTH.pack(len(text)), text, *rows])


def _read(path: Path, key: bytes) -> _State:
    header, contents, mark = vault.open_vault(path, key)
    card = _card(path, header)
    protection = Protection(key, card.dimension, card.code_bits)
    try:
        (size,) = _LENGTH.unpack_from(contents)
        start = _LENGTH.size + size
        records = json.loads(contents[_LENGTH.size : start])
        people = [Person.from_json(one) for one in records["people"]]
        events = [Event.from_json(one) for one in records["events"]]
        salt = bytes.fromhex(records["salt"])
        counts = [person.templates for person in people]
        if len({person.name for person in people}) < len(people) or len(salt) < 16:
            raise ValueError("people or salt")
        if len(contents) != start + sum(counts) * protection.template_bytes:
            raise ValueError("sizes")
        rows = np.split(protection.from_bytes(contents[start:]), np.cumsum(counts)[:-1]) if people else []
    except _BROKEN:
        raise InputError(f"{path} holds something else than people and templates; restore a copy") from None
    templates = {person.name: part for person, part in zip(people, rows, strict=True)}
    return _State(mark, card, protection, salt, {person.name: person for person in people}, templates, events)
