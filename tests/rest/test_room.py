"""Places for requests."""

import pytest

from mcp_gateway.errors import OverLimit
from mcp_gateway.rest.room import Room


def test_there_are_so_many_places_and_they_are_given_back_whatever_happens() -> None:
    room = Room("the route", 2)
    with room.place():
        with room.place(), pytest.raises(OverLimit, match="the route takes at most 2 requests at once") as full:
            room.place().__enter__()
        with pytest.raises(KeyError), room.place():
            raise KeyError
        with room.place():
            pass
    assert full.value.retry_after_s == 1.0
