"""The front door runs on uvloop in production, so its tests do."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fakes.front import Front, front


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "asyncio", {"use_uvloop": True}


@pytest.fixture
async def door(tmp_path: Path) -> AsyncIterator[Front]:
    """A front door that listens on a socket, over the scripted upstream `u`."""
    async with front(tmp_path) as opened:
        yield opened
