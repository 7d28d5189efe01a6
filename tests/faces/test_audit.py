"""Names that stay names wherever they end up, consents that say something, dates that are dates."""

import unicodedata
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenfold.core.errors import InputError
from tenfold.faces.audit import (
    Consent,
    Event,
    Person,
    check_consent,
    check_name,
    check_until,
    now,
    tag,
    today_or,
)

TODAY = date(2030, 6, 1)


@pytest.mark.parametrize("name", ["Ann", "José Ñandú", "王小明", "Øyvind O'Brien-Ågård", "محمد", "a.b", "...x", "👩‍🔬"])
def test_names_of_all_scripts_are_names(name: str) -> None:
    assert check_name(name) == unicodedata.normalize("NFC", name)


def test_a_letter_and_its_accent_are_one_name() -> None:
    assert check_name("Jose\u0301") == check_name("Jos\u00e9")


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            " ",
            " Ann",
            "Ann ",
            "\u3000",
            ".",
            "..",
            "...",
            "../ann",
            "/etc/passwd",
            "a/b",
            "a\\b",
            "..\\ann",
            "C:\\ann",
        ),
        *(
            "a\0b",
            "a\nb",
            "a\rb",
            "\x1b[2J",
            "a\x7f",
            "a\x85b",
            "a\u2028b",
            "a\u2029b",
            "\u202eann",
            "a\u2066b",
            "\ud800",
        ),
        *("x" * 201, None, 7, b"Ann"),
    ],
)
def test_names_that_lead_elsewhere_are_refused_in_one_printable_line(name: object) -> None:
    with pytest.raises(InputError, match="person's name") as refusal:
        check_name(name)
    assert str(refusal.value).isprintable() and len(str(refusal.value)) < 2000


@given(st.text())
def test_a_name_that_passes_is_one_component_of_a_path(name: str) -> None:
    try:
        checked = check_name(name)
    except InputError:
        return
    assert check_name(checked) == checked and checked.encode().decode() == checked
    assert not set(checked) & set("/\\\0\n\r") and checked not in (".", "..") and checked == checked.strip()


@pytest.mark.parametrize("consent", ["", "  \n", None, 0, True, b"yes", "x" * 2001, "a\0", "\ud800"])
def test_nothing_passes_for_a_consent(consent: object) -> None:
    with pytest.raises(InputError, match="consent"):
        check_consent(consent)


def test_a_consent_is_text_or_where_to_find_it() -> None:
    assert check_consent(" form 12,\nsigned 2030-05-01\t(Ann) ") == "form 12,\nsigned 2030-05-01\t(Ann)"


def test_dates_are_dates_and_lie_ahead() -> None:
    assert check_until(TODAY, TODAY) == TODAY and check_until(None, TODAY) is None
    with pytest.raises(InputError, match=r"until is 2030-05-31, which has passed on 2030-06-01"):
        check_until(date(2030, 5, 31), TODAY)
    for wrong in ("2030-06-01", 5, datetime(2031, 1, 1, tzinfo=UTC)):
        with pytest.raises(InputError, match=r"must be a datetime\.date"):
            check_until(wrong, TODAY)
        with pytest.raises(InputError, match=r"must be a datetime\.date"):
            today_or(wrong)  # type: ignore[arg-type]
    assert abs((today_or(None) - datetime.now(UTC).date()).days) <= 1


def test_a_tag_needs_name_and_salt() -> None:
    assert tag(b"s" * 16, "Ann") == tag(b"s" * 16, "Ann") != tag(b"t" * 16, "Ann")
    assert tag(b"s" * 16, "Ann") != tag(b"s" * 16, "Bob") and len(tag(b"", "")) == 32


def test_records_come_back_as_they_were() -> None:
    person = Person("Ann", 3, TODAY, (Consent("form 1", now(), 1), Consent("form 2", now(), 2)))
    assert Person.from_json(person.to_json()) == person
    assert not person.is_expired(TODAY) and person.is_expired(date(2030, 6, 2))
    event = Event(now(), "enrolled", 3, tag(b"", "Ann"), person="Ann")
    assert Event.from_json(event.to_json()) == Event(event.time, "enrolled", 3, event.tag)
    assert "Ann" not in str(event.to_json())


@pytest.mark.parametrize(
    "change",
    [
        *({"name": "../x"}, {"name": "Jose\u0301"}, {"templates": 2}, {"templates": -1}, {"templates": True}),
        *(
            {"templates": "1"},
            {"until": "soon"},
            {"until": 3},
            {"consents": []},
            {"consents": None},
            {"consents": [{}]},
        ),
    ],
)
def test_records_that_cannot_be_are_not_read(change: dict[str, object]) -> None:
    data = Person("Ann", 1, None, (Consent("form 1", now(), 1),)).to_json()
    assert Person.from_json(data)
    with pytest.raises((ValueError, KeyError, TypeError)):
        Person.from_json({**data, **change})


@pytest.mark.parametrize("change", [{"what": "sold"}, {"what": []}, {"time": "now"}, {"time": 1}, {"tag": "Ann"}])
def test_events_that_cannot_be_are_not_read(change: dict[str, object]) -> None:
    with pytest.raises((ValueError, TypeError)):
        Event.from_json({**Event(now(), "created", 0).to_json(), **change})
