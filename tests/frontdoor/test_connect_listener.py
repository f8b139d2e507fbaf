"""Login pages without an HTTP door: opened when they are needed, on this machine only, and closed again."""

from __future__ import annotations

from pathlib import Path

import httpx2
import pytest

from fakes.broker import bench
from mcp_gateway.frontdoor.connect import ConnectPages
from mcp_gateway.frontdoor.connect_listener import ConnectListener


async def test_it_listens_on_this_machine_from_the_first_need_until_it_is_closed(tmp_path: Path) -> None:
    async with bench(tmp_path / "s") as made:
        listener = ConnectListener(ConnectPages(made.broker.consents))
        await listener.close()
        url = await listener.base_url()
        assert url.startswith("http://127.0.0.1:")
        assert await listener.base_url() == url
        async with httpx2.AsyncClient(trust_env=False) as client:
            assert (await client.get(f"{url}/connect/callback")).status_code == 400
            await listener.close()
            with pytest.raises(httpx2.ConnectError):
                await client.get(f"{url}/connect/callback")


async def test_a_port_that_is_taken_is_not_insisted_on(tmp_path: Path, free_port: int) -> None:
    async with bench(tmp_path / "s") as made:
        pages = ConnectPages(made.broker.consents)
        first, second = ConnectListener(pages, free_port), ConnectListener(pages, free_port)
        assert await first.base_url() == f"http://127.0.0.1:{free_port}"
        assert await second.base_url() != await first.base_url()
        await first.close()
        await second.close()
