"""Names come from their files when they are asked for, are kept, and unknown ones are refused as by any module."""

import pytest

from tenfold.core.lazy import lazily


def test_a_name_is_fetched_once_and_kept() -> None:
    """From the file that is named for it; then it stands in the package's own names."""
    names: dict[str, object] = {"here": 1}
    find, list_names = lazily("tenfold.core", {"InputError": "errors"}, names)
    from tenfold.core.errors import InputError  # noqa: PLC0415

    assert list_names() == ["InputError", "here"]
    assert find("InputError") is InputError
    assert names["InputError"] is InputError


def test_an_unknown_name_is_refused() -> None:
    find, _ = lazily("tenfold.core", {}, {})
    with pytest.raises(AttributeError, match=r"module 'tenfold\.core' has no attribute 'Mistake'"):
        find("Mistake")
