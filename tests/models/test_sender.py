"""The targets a model's name leads to; the calls themselves are in test_call.py and walk/test_model_faults.py."""

from types import MappingProxyType
from typing import Any

import orjson
import pytest

from fakes.relays import RecordingRelay
from mcp_gateway.config.models import ModelConfig, Models, ModelTarget, Price, ProviderConfig
from mcp_gateway.domain import Caller, HttpPart, Kind, Request, Verb
from mcp_gateway.errors import BadRequest, Unreachable
from mcp_gateway.models.asked import read
from mcp_gateway.models.call import Surroundings
from mcp_gateway.models.health import Health
from mcp_gateway.models.sender import ModelSender, expected, model_target, targets_of
from mcp_gateway.models.wires import BY_OP, Op
from mcp_gateway.rest.breaker import FAILURES_UNTIL_OPEN

PRICED = MappingProxyType({"dear": Price(10, 10), "cheap": Price(1, 1)})
PROVIDERS = {"o": ProviderConfig("o", "openai", "", prices=PRICED), "a": ProviderConfig("a", "anthropic", "")}
MODELS = Models(
    MappingProxyType(PROVIDERS),
    MappingProxyType(
        {
            "mixed": ModelConfig("mixed", (ModelTarget("o", "dear"), ModelTarget("o", "cheap"), ModelTarget("a", "c"))),
            "free": ModelConfig("free", (ModelTarget("o", "nobody-knows"),)),
        }
    ),
)


class Nobody:
    """A client that must not be needed."""

    def open(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was sent")


def sender(health: Health, *denied: str) -> ModelSender:
    around = Surroundings(Nobody(), health, lambda: 0.0, 1000, 60)
    return ModelSender(MODELS, around, lambda caller, request, target: target.name not in denied, lambda: 0.0)


def request(path: str = "/v1/chat/completions") -> Request:
    value = {"model": "mixed"}
    http = HttpPart(path, {}, orjson.dumps(value), value, RecordingRelay())
    return Request("r", Verb.MODEL, "model", Kind.MODEL, "mixed", {"arguments": {"stream": False}}, http=http)


def test_the_catalog_gets_every_name_with_the_wires_it_speaks() -> None:
    found = {target.name: target for target in targets_of(MODELS)}
    assert found["mixed"].definition["wires"] == ["anthropic", "openai"]
    assert found["mixed"].key == "models/mixed"
    assert found["mixed"].definition_hash != found["free"].definition_hash


async def test_denied_targets_are_no_way_round() -> None:
    with pytest.raises(BadRequest):
        await sender(Health(), "dear", "cheap").send(Caller("a", "t"), model_target("mixed"), request())


async def test_a_name_that_no_target_serves_on_this_wire_is_refused() -> None:
    with pytest.raises(BadRequest, match="by this path"):
        await sender(Health()).send(Caller("a", "t"), model_target("free"), request("/v1/messages"))


async def test_when_all_are_dead_that_is_said_at_once() -> None:
    health = Health()
    for model in ("dear", "cheap"):
        for _ in range(FAILURES_UNTIL_OPEN):
            health.failed(ModelTarget("o", model), 0, is_dead=True)
    with pytest.raises(Unreachable, match="try again in"):
        await sender(health).send(Caller("a", "t"), model_target("mixed"), request())


def test_what_a_call_may_cost_is_what_its_dearest_target_costs() -> None:
    body = {"model": "mixed", "max_tokens": 1_000_000}
    usage = expected(MODELS, read(BY_OP[Op.CHAT], orjson.dumps(body), body))
    assert usage.cost == pytest.approx(10, rel=0.01)
    unknown = {"model": "free"}
    assert expected(MODELS, read(BY_OP[Op.CHAT], orjson.dumps(unknown), unknown)).cost is None
