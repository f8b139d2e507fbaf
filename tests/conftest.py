"""Fixtures that more than one room's tests share; the helpers behind them are in tests/fakes/."""

import logging
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

from fakes import leftovers, ports

# A claim about all inputs is not one about a busy machine.
settings.register_profile("here", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("here")

# What a shell starts in the background ignores Ctrl-C, and so does all that it starts: tests that interrupt a command
# would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# A test's `stdio` is a gateway by itself: one that it starts for others would outlive it. tests/cli/test_shared.py has
# those that share.
os.environ["MCP_GATEWAY_ALONE"] = "1"


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The gateway runs on asyncio (uvloop where there is one); trio is not promised."""
    return "asyncio"


@pytest.fixture
def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on; `fakes.ports.free_port()` gives more of them."""
    return ports.free_port()


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left_behind() -> Iterator[None]:
    """The session ends with no process and no thread that the tests started. Shown as an error of the last test."""
    processes, threads = leftovers.child_processes(), leftovers.threads()
    yield
    left = leftovers.leftovers(processes, threads)
    assert not left, "the tests left running: " + "; ".join(left)


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """A test may set up logging as a command does; the next one finds it as pytest made it."""
    logger = logging.getLogger("mcp_gateway")
    before = (logger.handlers[:], logger.level, logger.propagate)
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])
