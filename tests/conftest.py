"""Fixtures that more than one room's tests share."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """The gateway runs on asyncio (uvloop where there is one); trio is not promised."""
    return "asyncio"
