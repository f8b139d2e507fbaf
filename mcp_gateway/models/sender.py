"""By which way model calls leave: the targets a name leads to, less those that policy or their health rule out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from mcp_gateway.config.models import Models, ModelTarget
from mcp_gateway.domain import (
    MODELS,
    Caller,
    HttpPart,
    Json,
    Kept,
    Kind,
    Outcome,
    OutcomeStatus,
    Request,
    Target,
    Usage,
)
from mcp_gateway.errors import BadRequest, Unreachable
from mcp_gateway.jsonrpc import canonical
from mcp_gateway.models.asked import Asked
from mcp_gateway.models.caching import Prompt, Prompts, Recording, prompt_of, replay
from mcp_gateway.models.call import Call, Surroundings
from mcp_gateway.models.keeping import Keeping
from mcp_gateway.models.kept import KeptThings
from mcp_gateway.models.prices import price_of
from mcp_gateway.models.route import Way, ways
from mcp_gateway.models.shadow import Shadow
from mcp_gateway.models.wires import BY_OP, Operation, operation_of

Permits = Callable[[Caller, Request, Target], bool]
"""Whether no line of policy denies a model by the name its provider knows it by: an alias is no way around a deny."""


@dataclass(frozen=True, slots=True)
class ModelSender:
    """`domain.Sender` for models, under one configuration and one policy."""

    models: Models
    around: Surroundings
    permits: Permits
    random: Callable[[], float]
    prompts: Prompts | None = None
    """Where answers are kept; None: nowhere."""
    policy: str = ""
    """The version of the policy."""
    shadow: Shadow | None = None
    """What looks at answers that need not have been asked for; None: nothing."""
    things: KeptThings | None = None
    """What providers keep for agents; None: nothing."""

    async def send(self, caller: Caller, target: Target, request: Request) -> Outcome:
        """See `domain.Sender`. Raises `BadRequest` for a model that does not speak the wire it is asked by."""
        http = request.http
        if http is None:
            raise BadRequest("models are asked over their own wires")
        operation = operation_of(http.method, http.path)
        permitted = self._permitted(caller, target, request, operation)
        prompt = self._prompt(caller, request, operation, permitted)
        kept = None if prompt is None else prompt.kept()
        if kept is not None:
            with http.relay.scope:
                return await replay(http.relay, *kept)
            return Outcome(OutcomeStatus.CANCELLED, cached=kept[1])
        if prompt is None:
            return (await self._called(caller, request, http, operation, permitted))[0]
        http, recording = prompt.recording(http)
        outcome, is_whole = await self._called(caller, request, http, operation, permitted)
        if not is_whole:
            return outcome
        prompt.keep(recording, outcome)
        return await self._compared(prompt, recording, request, outcome)

    async def _called(
        self, caller: Caller, request: Request, http: HttpPart, operation: Operation, permitted: list[Way]
    ) -> tuple[Outcome, bool]:
        """What a provider's answer was, and whether it came to its own end."""
        input_tokens = request.expects.input if request.expects is not None else 0
        is_stream = request.arguments["stream"]
        awake = self._awake(permitted)
        keeping = None
        if self.things is not None and any(way.provider.stateful for way in awake):
            keeping = Keeping(self.things, caller, request.name, operation, http)
        call = Call(
            self.around, operation, http, awake, is_stream=is_stream, input_tokens=input_tokens, keeping=keeping
        )
        with http.relay.scope:
            return await call.run(), call.is_whole
        return call.cut_off(), False

    async def _compared(self, prompt: Prompt, recording: Recording, request: Request, outcome: Outcome) -> Outcome:
        """With what a cache in shadow would have made of it."""
        model, http = self.models.offered.get(request.name), request.http
        if self.shadow is None or model is None or model.semantic is None or http is None:
            return outcome
        cached = await self.shadow.looked(model.semantic, prompt, http.json, recording)
        return outcome if cached is None else replace(outcome, cached=cached)

    def _prompt(self, caller: Caller, request: Request, operation: Operation, ways: list[Way]) -> Prompt | None:
        model = self.models.offered.get(request.name)
        if self.prompts is None or model is None or not (model.cache_s or model.semantic):
            return None
        if request.arguments.get("state"):  # of an answer that is kept, each has an id of its own
            return None
        return prompt_of(self.prompts, caller, request, operation, ways, model.cache_s, self.policy)

    def _permitted(self, caller: Caller, target: Target, request: Request, operation: Operation) -> list[Way]:
        known = ways(self.models, target.name, operation, self.random)
        found = self._keeping_all(request, known)
        if known and not found:
            raise BadRequest(f"the model {target.name!r} is not at the provider that keeps what the request refers to")
        if not found:
            raise BadRequest(f"the model {target.name!r} cannot be asked by this path")
        permitted = [way for way in found if self.permits(caller, request, model_target(way.target.model))]
        if not permitted:
            raise BadRequest(f"the model {target.name!r} cannot be asked at the moment")
        return permitted

    def _awake(self, permitted: list[Way]) -> list[Way]:
        awake, wait_s = self.around.health.worth_trying([way.target for way in permitted], self.around.now_s())
        if not awake:
            name = permitted[0].target.provider
            raise Unreachable(name, f"provider {name!r} has not answered lately; try again in {wait_s:.0f} s")
        return [way for way in permitted if way.target in awake]

    def _keeping_all(self, request: Request, found: list[Way]) -> list[Way]:
        """Those of the ways that lead to where everything is that the request refers to, or wants kept.

        What is asked for by its id is at the very target that made it, wherever the name leads by now.
        """
        http, wished = request.http, request.arguments.get("state", ())
        kept = () if http is None else http.kept
        is_default = http is not None and wished == ["store"] and http.json.get("store") is None
        if not kept and (is_default or not wished):
            return found
        provider = self.models.providers.get(kept[0].provider) if kept else None
        if kept and "id" in request.arguments:
            named = ModelTarget(kept[0].provider, kept[0].target)
            return [] if provider is None else [Way(named, provider)]
        return [way for way in found if way.provider.stateful and provider in (None, way.provider)]


def targets_of(models: Models) -> list[Target]:
    """Everything agents can ask for, for the catalog."""
    return [
        model_target(name, {"targets": [str(target) for target in model.targets], "wires": wires_of(models, name)})
        for name, model in models.offered.items()
    ]


def model_target(name: str, definition: Json | None = None) -> Target:
    """A model by the name that policies and agents use."""
    shown = {"name": name, **(definition or {})}
    digest = hashlib.sha256(canonical(shown)).hexdigest()
    return Target(Kind.MODEL, MODELS, name, name, shown, digest, raw=shown)


def wires_of(models: Models, name: str) -> list[str]:
    """The wires that some target of a name speaks."""
    found = (models.providers.get(target.provider) for target in models.offered[name].targets)
    return sorted({provider.wire for provider in found if provider is not None and provider.enabled})


def expected(models: Models, asked: Asked, kept: Sequence[Kept] = ()) -> Usage:
    """What a call is expected to take at most: what budgets set aside for it.

    Going on from something `kept` takes all that came before as input, too.
    """
    before = max((each.tokens for each in kept), default=0)
    usage = Usage(input=asked.input_tokens + before, output=asked.output_tokens)
    operation = BY_OP[asked.op]
    model = models.offered.get(asked.model)
    costs = [
        cost
        for target in (model.targets if model is not None else ())
        if (provider := models.providers.get(target.provider)) is not None
        and (cost := price_of(operation, usage, provider, target.model)) is not None
    ]
    return replace(usage, cost=max(costs, default=None), is_estimated=True)
