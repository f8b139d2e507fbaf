"""`/metrics`: who may read it, and that real parsers find in it what was counted."""

from __future__ import annotations

import anyio
import httpx2
import pytest
from prometheus_client import openmetrics, parser
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from starlette.responses import PlainTextResponse

from mcp_gateway.frontdoor.scrape import ScrapeDoor
from mcp_gateway.metrics import AUDIT_WAITING, CALLS, OWN_TIME, Spread, Taken

KEY = "0123456789abcdef" * 2
OTHER_KEY = "fedcba9876543210" * 2
LABELS = ("call", "alice", "work", "u", "allowed", "ok")
SPREAD = Spread((1, 2, *[0] * (len(OWN_TIME.bounds) - 2), 3), 9.5)
TAKEN = [
    Taken(CALLS, [(LABELS, 7)]),
    Taken(OWN_TIME, [(("call", "u"), SPREAD)]),
    Taken(AUDIT_WAITING, [((), 2)]),
]


class Scraper:
    """Somebody with an HTTP client, and what was refused to them."""

    def __init__(self) -> None:
        self.refused: list[str] = []
        beyond = PlainTextResponse("the admin door")
        door = ScrapeDoor(beyond, [KEY, OTHER_KEY], lambda: TAKEN, self.refused.append, 65_536)
        transport = httpx2.ASGITransport(app=door)
        self.http = httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8766", trust_env=False)

    async def get(self, path: str = "/metrics", key: str = KEY, method: str = "GET", **more: str) -> httpx2.Response:
        lines = {"authorization": f"Bearer {key}"} if key else {}
        return await self.http.request(method, path, headers={**lines, **more})


@pytest.fixture
def scraper() -> Scraper:
    return Scraper()


def samples(text: str) -> dict[tuple[str, frozenset[str]], float]:
    return {
        (sample.name, frozenset(sample.labels.values())): sample.value
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_prometheus_finds_what_was_counted(scraper: Scraper) -> None:
    response = await scraper.get()
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert response.headers["cache-control"] == "no-store"
    found = samples(response.text)
    assert found["mcp_gateway_calls_total", frozenset(LABELS)] == 7
    assert found["mcp_gateway_audit_waiting", frozenset()] == 2
    kinds = {family.name: family.type for family in parser.text_string_to_metric_families(response.text)}
    assert (kinds["mcp_gateway_calls"], kinds["mcp_gateway_own_seconds"]) == ("counter", "histogram")
    assert kinds["process_cpu_seconds"] == "counter"
    assert kinds["python_gc_collections"] == "counter"


async def test_the_buckets_of_a_histogram_add_up(scraper: Scraper) -> None:
    found = samples((await scraper.get()).text)
    name = "mcp_gateway_own_seconds"
    bounds = ("0.0005", "0.001", "2.5", "+Inf")
    buckets = [found[f"{name}_bucket", frozenset(("call", "u", bound))] for bound in bounds]
    assert buckets == [1, 3, 3, 6]
    ends = frozenset(("call", "u"))
    assert (found[f"{name}_count", ends], found[f"{name}_sum", ends]) == (6, 9.5)


async def test_openmetrics_is_written_for_whoever_asks_for_it(scraper: Scraper) -> None:
    response = await scraper.get(accept="application/openmetrics-text; version=1.0.0")
    assert response.headers["content-type"].startswith(openmetrics.exposition.CONTENT_TYPE_LATEST.split(";")[0])
    names = {family.name for family in openmetrics_families(response.text)}
    assert {"mcp_gateway_calls", "mcp_gateway_own_seconds"} <= names


@pytest.mark.parametrize("key", ["", "mcpgw_an_agents_key", KEY[:-1], KEY.upper()])
async def test_without_one_of_the_keys_nothing_is_told(scraper: Scraper, key: str) -> None:
    response = await scraper.get(key=key)
    assert response.status_code == 401
    assert "mcp_gateway_calls" not in response.text
    assert scraper.refused == ["admin_401"]


async def test_each_of_the_keys_opens_it(scraper: Scraper) -> None:
    assert [(await scraper.get(key=key)).status_code for key in (KEY, OTHER_KEY)] == [200, 200]


async def test_a_page_in_a_browser_and_another_host_are_refused(scraper: Scraper) -> None:
    assert (await scraper.get(origin="https://evil.example")).status_code == 403
    assert (await scraper.get(host="evil.example")).status_code == 421


async def test_it_is_only_read(scraper: Scraper) -> None:
    response = await scraper.get(method="POST")
    assert (response.status_code, response.headers["allow"]) == (405, "GET")


async def test_everything_else_is_the_admin_doors(scraper: Scraper) -> None:
    for path in ("/tasks", "/metrics/", "/"):
        assert (await scraper.get(path, key="")).text == "the admin door"


async def test_scrapers_who_come_together_are_all_served(scraper: Scraper) -> None:
    codes: list[int] = []

    async def one() -> None:
        codes.append((await scraper.get()).status_code)

    async with anyio.create_task_group() as tasks:
        for _ in range(10):
            tasks.start_soon(one)
    assert codes == [200] * 10
