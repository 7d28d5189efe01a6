import importlib.metadata
import importlib.util

from tenfold.core.errors import InputError
from tenfold.core.systems import SYSTEMS


def test_there_are_ten_rooms_with_names_of_their_own() -> None:
    assert len({room.name for room in SYSTEMS}) == len(SYSTEMS) == 10


def test_a_room_works_exactly_if_its_commands_exist() -> None:
    for room in SYSTEMS:
        package = importlib.util.find_spec(f"tenfold.{room.name}")
        assert (package is not None) == (room.state == "works"), room.name
        if room.state == "works":
            assert importlib.util.find_spec(f"tenfold.{room.name}.commands") is not None


def test_every_extra_can_be_installed() -> None:
    offered = importlib.metadata.metadata("tenfold").get_all("Provides-Extra") or []
    assert {room.extra for room in SYSTEMS} <= {name.replace("-", "_") for name in offered}


def test_summaries_are_one_line_for_lists() -> None:
    for room in SYSTEMS:
        assert "\n" not in room.summary
        assert len(room.summary) <= 80
        assert not room.summary.endswith(".")


def test_input_error_is_a_value_error() -> None:
    assert issubclass(InputError, ValueError)
