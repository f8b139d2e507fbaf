"""Request ids, and the time as text."""

import re
from datetime import datetime

from mcp_gateway.wiring.clock import new_request_id, utc_now, utc_text


def test_request_ids_sort_by_time() -> None:
    ids = [new_request_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert [each[:11] for each in ids] == sorted(each[:11] for each in ids)


def test_the_time_as_text_is_utc_to_the_second() -> None:
    text = utc_text()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)
    assert abs((utc_now() - datetime.fromisoformat(text)).total_seconds()) < 60
