"""Who is in a gallery, on what basis, until when, and what was done: the records beside the templates.

A person's name, consents and retention date live in one record, which goes when the person goes. A line of the audit
trail never holds a name, a consent or a template: it names people by a tag, a hash of the name under a salt that is
kept with it, encrypted. Who knows a name can find its lines; the lines alone do not tell it.
"""

import hashlib
import hmac
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, Literal, get_args

from tenfold.core.errors import InputError

__all__ = ["Consent", "Event", "Happening", "Person", "check_consent", "check_name", "check_until"]
__all__ += ["now", "tag", "today_or"]

Happening = Literal["created", "enrolled", "forgotten", "expired", "renewed"]

_MOST_NAME, _MOST_CONSENT = 200, 2000
_TURNS_TEXT = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_CONTROLS = {"Cc", "Cs", "Zl", "Zp"}  # of Unicode's categories: surrogates and ends of lines and paragraphs too


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
