"""Logs: one line per event, with its request, without its secrets."""

import io
import json
import logging
import os
import time
from collections.abc import Iterator

import pytest

from mcp_gateway.telemetry import LOGGER, MAX_UNWRITTEN, request_log, setup_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    logger = logging.getLogger(LOGGER)
    before = logger.handlers, logger.level, logger.propagate
    yield io.StringIO()
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def test_a_line_of_text_carries_the_request_it_belongs_to(stream: io.StringIO) -> None:
    setup_logging(stream=stream)
    request_log("r-1", agent="support-bot").info("denied", extra={"target": "crm/delete it"})
    assert stream.getvalue().endswith("INFO denied request_id=r-1 agent=support-bot target='crm/delete it'\n")


def test_a_line_of_json_carries_the_request_it_belongs_to(stream: io.StringIO) -> None:
    setup_logging(json=True, stream=stream)
    request_log("r-1").warning("slow %s", "upstream", extra={"ms": 7})
    event = json.loads(stream.getvalue())
    assert (event["request_id"], event["level"], event["message"], event["ms"]) == (
        "r-1",
        "warning",
        "slow upstream",
        7,
    )


def test_a_field_cannot_pass_for_the_event_itself(stream: io.StringIO) -> None:
    setup_logging(json=True, stream=stream)
    request_log("r-1").info("denied", extra={"level": "debug"})
    assert json.loads(stream.getvalue())["level"] == "info"


@pytest.mark.parametrize("as_json", [False, True])
def test_an_agents_words_cannot_forge_a_second_line(stream: io.StringIO, as_json: bool) -> None:
    setup_logging(json=as_json, stream=stream)
    request_log("r-1").info("unknown tool x\nINFO allowed", extra={"name": "y\nINFO allowed request_id=r-2"})
    assert stream.getvalue().count("\n") == 1


@pytest.mark.parametrize("as_json", [False, True])
def test_a_bearer_token_is_masked_wherever_it_slipped_in(stream: io.StringIO, as_json: bool) -> None:
    setup_logging(json=as_json, stream=stream)
    try:
        raise ValueError("Authorization: Bearer abc.def-123")
    except ValueError:
        request_log("r-1").exception("basic dXNlcjpwYXNz", extra={"header": "BEARER abc.def-123"})
    text = stream.getvalue()
    assert "Traceback" in text
    assert "abc.def" not in text
    assert "dXNlcjpwYXNz" not in text


def test_the_level_decides_what_is_written_and_setting_up_again_replaces(stream: io.StringIO) -> None:
    setup_logging("debug", stream=stream)
    setup_logging("warning", stream=stream)
    request_log("r-1").info("quiet")
    request_log("r-1").warning("loud")
    assert stream.getvalue().count("\n") == 1


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="CHATTY"):
        setup_logging("chatty")


def test_whoever_logs_never_waits_for_a_pipe_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.getLogger(LOGGER)
    reader, writer = os.pipe()
    with os.fdopen(writer, "w", encoding="utf-8") as pipe, os.fdopen(reader, encoding="utf-8") as nobody:
        monkeypatch.setattr("sys.stderr", pipe)
        setup_logging()
        (handler,) = logger.handlers
        began_at = time.monotonic()
        for number in range(MAX_UNWRITTEN + 2_000):
            logger.warning("line %d of many, and long enough for a pipe to be full soon", number)
        assert time.monotonic() - began_at < 10
        said: list[str] = []
        while "were dropped" not in (said[-1] if said else ""):
            said.append(nobody.readline())
        handler.flush()
    assert "line 0 of many" in said[0]
    assert 0 < int(said[-1].split()[0]) <= 2_000
