"""What a gallery is for, who is in it, on what basis, until when, and what was done: the records beside the templates.

A person's name, consents and retention date live in one record, which goes when the person goes. A line of the audit
trail never holds a name, a consent or a template: it names people by a tag, a hash of the name under a salt that is
kept with it, encrypted. Who knows a name can find its lines; the lines alone do not tell it.
"""

import hashlib
import hmac
import math
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, Protocol, get_args

from tenfold.core.errors import InputError
from tenfold.faces.templates import check_code_bits, check_dimension

__all__ = ["Calibrated", "Consent", "Event", "GalleryCard", "Happening", "Person"]
__all__ += ["check_consent", "check_name", "check_until", "is_number", "now", "tag", "today_or"]

Happening = Literal["created", "enrolled", "forgotten", "expired", "renewed"]

_MOST_NAME, _MOST_CONSENT, _MOST_ID = 200, 2000, 500
_TURNS_TEXT = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}  # of Unicode's categories: surrogates and ends of lines and paragraphs too


class Calibrated(Protocol):
    """A threshold and where it comes from, such as `thresholds.Threshold`."""

    @property
    def value(self) -> float:
        """The least cosine at which two faces pass for the same person."""

    @property
    def far(self) -> float:
        """The share of pairs of different people that reach it."""


@dataclass(frozen=True)
class GalleryCard:
    """What a gallery's header says.

    Attributes:
        model_id: Of the model whose embeddings are in it.
        dimension: Of these embeddings.
        threshold: The least score, a cosine, at which a face passes for a person.
        far: False accept rate of one comparison at which the threshold was calibrated.
        code_bits: None where templates are rotated embeddings, else the bits of a code.
    """

    model_id: str
    dimension: int
    threshold: float
    far: float
    code_bits: int | None = None

    def __post_init__(self) -> None:
        if (
            not isinstance(self.model_id, str)
            or not 0 < len(self.model_id) <= _MOST_ID
            or not self.model_id.isprintable()
        ):
            raise InputError(f"model_id is {self.model_id!r:.80}; it must be the id of a model: a line of text")
        check_dimension(self.dimension)
        if not is_number(self.threshold) or not -1 <= self.threshold <= 1:
            raise InputError(f"the threshold is {self.threshold!r:.80}; it must be a cosine, -1 to 1: calibrate one")
        if not is_number(self.far) or not 0 < self.far < 1:
            raise InputError(f"the threshold's FAR is {self.far!r:.80}; it must lie between 0 and 1: calibrate one")
        check_code_bits(self.code_bits)

    def require(self, model_id: str | None, dimension: int | None, place: object) -> None:
        """InputError that names both models where embeddings of another model or dimension are to be used."""
        other = model_id not in (None, self.model_id)
        if other or dimension not in (None, self.dimension):
            given = f"model {model_id}" if other else "this model"
            raise InputError(
                f"{place} holds templates of model {self.model_id} with dimension {self.dimension}; {given}"
                f"{'' if dimension is None else f' with dimension {dimension}'} cannot be compared with them: "
                "use the gallery's model, or make a new gallery and enroll everybody again"
            )


@dataclass(frozen=True)
class Consent:
    """The basis on which templates are kept.

    Attributes:
        text: What was agreed to, or where that is filed.
        time: When it was recorded, UTC, ISO 8601.
        templates: How many templates were enrolled on it.
    """

    text: str
    time: str
    templates: int

    def to_json(self) -> dict[str, Any]:
        """As kept in the gallery."""
        return {"text": self.text, "time": self.time, "templates": self.templates}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Consent":
        """From what `to_json` gave; ValueError, KeyError or TypeError where it is anything else."""
        return cls(check_consent(data["text"]), _check_time(data["time"]), _check_number(data["templates"]))


@dataclass(frozen=True)
class Person:
    """Who is enrolled.

    Attributes:
        name: As checked by `check_name`.
        templates: How many templates are kept.
        until: The last day on which the person is matched; None: no such day.
        consents: One per enrolment, oldest first.
    """

    name: str
    templates: int
    until: date | None
    consents: tuple[Consent, ...]

    def is_expired(self, today: date) -> bool:
        """Whether the retention date has passed."""
        return self.until is not None and self.until < today

    def to_json(self) -> dict[str, Any]:
        """As kept in the gallery."""
        until = None if self.until is None else self.until.isoformat()
        consents = [consent.to_json() for consent in self.consents]
        return {"name": self.name, "templates": self.templates, "until": until, "consents": consents}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Person":
        """From what `to_json` gave; ValueError, KeyError or TypeError where it is anything else."""
        until = None if data["until"] is None else date.fromisoformat(data["until"])
        consents = tuple(Consent.from_json(one) for one in data["consents"])
        person = cls(check_name(data["name"]), _check_number(data["templates"]), until, consents)
        if person.name != data["name"] or not 0 < person.templates == sum(one.templates for one in consents):
            raise ValueError(person.name)
        return person


@dataclass(frozen=True)
class Event:
    """One line of the audit trail.

    Attributes:
        time: UTC, ISO 8601.
        what: "created", "enrolled", "forgotten", "expired" or "renewed".
        templates: How many templates came or went.
        tag: Of the person, 32 hexadecimal digits; empty where it concerns the whole gallery.
        person: The name, as long as the person is enrolled; empty afterwards. Never stored with the line.
    """

    time: str
    what: Happening
    templates: int
    tag: str = ""
    person: str = ""

    def to_json(self) -> dict[str, Any]:
        """As kept in the gallery: without the name."""
        return {"time": self.time, "what": self.what, "templates": self.templates, "tag": self.tag}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Event":
        """From what `to_json` gave; ValueError, KeyError or TypeError where it is anything else."""
        if data["what"] not in get_args(Happening):
            raise ValueError(data["what"])
        bytes.fromhex(data["tag"])
        return cls(_check_time(data["time"]), data["what"], _check_number(data["templates"]), data["tag"])


def tag(salt: bytes, person: str) -> str:
    """The person's tag in the audit trail: 32 hexadecimal digits of HMAC-SHA256(salt, name)."""
    return hmac.new(salt, person.encode(), hashlib.sha256).hexdigest()[:32]


def now() -> str:
    """The time for a record: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def today_or(today: date | None) -> date:
    """The given day, or the present one in UTC; InputError for anything but a date."""
    if today is None:
        return datetime.now(UTC).date()
    if not isinstance(today, date) or isinstance(today, datetime):
        raise InputError(f"today is {today!r}; it must be a datetime.date, or None for the present day")
    return today


def check_name(person: object) -> str:
    """A person's name in Unicode's composed form (NFC).

    Any script will do; path separators, control characters, marks that turn the direction of text, names of dots only
    and blanks at the ends will not, since names end up in paths and on terminals.

    Raises:
        InputError: Not such a name, or longer than 200 characters.
    """
    if not isinstance(person, str):
        raise InputError(f"a person's name is {person!r}; it must be text")
    name = unicodedata.normalize("NFC", person)
    shown = ascii(name if len(name) <= _MOST_NAME else name[:20] + "...")
    if not name.strip() or name != name.strip():
        raise InputError(f"the person's name {shown} is empty or has blanks at its ends; take them away")
    if len(name) > _MOST_NAME:
        raise InputError(f"the person's name {shown} has {len(name)} characters; {_MOST_NAME} is the most")
    bad = next((one for one in name if one in "/\\" or one in _TURNS_TEXT or _is_control(one)), None)
    if bad is not None or not name.strip("."):
        what = "consists of dots" if bad is None else f"holds {bad!a}"
        raise InputError(f"the person's name {shown} {what}; no path separators, control characters or names of dots")
    return name


def check_consent(consent: object) -> str:
    """The text of a consent, or a reference to where it is filed.

    Raises:
        InputError: There is none, or it is longer than 2,000 characters.
    """
    if not isinstance(consent, str) or not consent.strip():
        raise InputError(
            "enrolling needs a recorded consent: give its text, or a reference to where it is filed; "
            "without one no template may be kept"
        )
    text = consent.strip()
    if len(text) > _MOST_CONSENT or any(_is_control(one) and one not in "\n\t" for one in text):
        raise InputError(f"the consent has control characters or over {_MOST_CONSENT:,} characters: name where it lies")
    return text


def check_until(until: object, today: date) -> date | None:
    """The last day on which a person may be matched, or None for no such day; InputError for one that has passed."""
    if until is None:
        return None
    if not isinstance(until, date) or isinstance(until, datetime):
        raise InputError(f"until is {until!r}; it must be a datetime.date, the last day on which the person is matched")
    if until < today:
        raise InputError(f"until is {until}, which has passed on {today}; give a later day")
    return until


def _check_number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 40:
        raise ValueError(value)
    return value


def _is_control(one: str) -> bool:
    return unicodedata.category(one) in _CONTROLS


def _check_time(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(value)
    datetime.fromisoformat(value)
    return value


def is_number(value: object) -> bool:
    """Whether it is a finite number of Python's."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
