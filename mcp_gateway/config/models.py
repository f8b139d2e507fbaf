"""`[models.NAME]` of servers.toml: the model providers behind us, and the names under which agents ask for models.

A table with a `url` is a provider; the names in its `models` are offered as they are. A table with `targets` is an
alias: NAME is what agents ask for, and each target is `PROVIDER/MODEL`. Targets are tried in the order written, or,
where they have weights, in an order drawn by them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Final, Literal

from mcp_gateway.config.remote import read_remote
from mcp_gateway.config.secrets import Secrets, warn_of_literal_secret
from mcp_gateway.config.settings import DAY_S
from mcp_gateway.config.table import ConfigCode, Findings, Table
from mcp_gateway.domain import NOTHING

Wire = Literal["openai", "anthropic"]

EMBEDDERS: Final = "mcp_gateway.embedders"
"""The entry point group of packages that turn texts into vectors."""
LEAST_LIKENESS: Final = 0.97

DEFAULT_TIMEOUT_S: Final = 600.0
"""What the official SDKs wait."""
DEFAULT_IDLE_TIMEOUT_S: Final = 120.0

_PROVIDER_NAME: Final = re.compile(r"[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9])?")
_MODEL_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,199}")
_MODEL_RULE: Final = "letters, digits and . _ : / @ -, at most 200, a letter or digit first"
_KEY: Final = re.compile(r"[!-~]+")
_PRICES: Final = ("input", "output", "cache_read", "cache_write")
_MOST_USD: Final = 1e6


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    input: float
    output: float
    cache_read: float | None = None
    """None: as much as other input."""
    cache_write: float | None = None


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One `[models.NAME]` table with a `url`."""

    name: str
    wire: Wire
    url: str
    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """The key among them."""
    models: tuple[str, ...] = ()
    """The provider's own names of what it offers here."""
    prices: Mapping[str, Price] = field(default_factory=lambda: NOTHING)
    """By the provider's own name of a model; they beat what is known of it."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    idle_timeout_s: float = DEFAULT_IDLE_TIMEOUT_S
    """Between two pieces of an answer, the first included."""
    stream_usage: bool = True
    """Whether it takes `stream_options.include_usage`; some compatible servers refuse it."""
    stateful: bool = False
    """Whether agents may have it keep responses, conversations and containers, each for itself."""
    enabled: bool = True
    cache_s: float = 0.0
    """Of every model it offers under its own name; see `ModelConfig`."""
    semantic: SemanticConfig | None = None
    at: str = ""

    def __repr__(self) -> str:
        return f"ProviderConfig({self.name!r}, at={self.at!r})"


@dataclass(frozen=True, slots=True)
class ModelTarget:
    """One model of one provider, by that provider's own name."""

    provider: str
    model: str
    weight: float = 1.0

    def __str__(self) -> str:
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True, slots=True)
class SemanticConfig:
    """A cache in shadow of questions that mean the same: it answers nothing, and tells what it would have."""

    embedder: str
    """The name of an entry point in `EMBEDDERS`."""
    threshold: float = LEAST_LIKENESS
    """How alike two questions have to be, from 0 to 1."""
    keep_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One name that agents can ask for."""

    name: str
    targets: tuple[ModelTarget, ...]
    is_weighted: bool = False
    cache_s: float = 0.0
    """How long an answer is given again to whoever asks the very same once more; 0: never."""
    semantic: SemanticConfig | None = None


@dataclass(frozen=True, slots=True)
class Models:
    """All `[models]` tables."""

    providers: Mapping[str, ProviderConfig] = field(default_factory=lambda: NOTHING)
    offered: Mapping[str, ModelConfig] = field(default_factory=lambda: NOTHING)
    """What agents can ask for, by that name."""


def read_models(table: Table | None, secrets: Secrets) -> Models:
    """All tables of `[models]`; complaints go to the table's findings."""
    if table is None:
        return Models()
    providers: dict[str, ProviderConfig] = {}
    aliases: list[tuple[ModelConfig, Table]] = []
    for name, entry in table.tables():
        if "targets" in entry:
            aliases.append((_read_alias(name, entry), entry))
        else:
            providers[name] = _read_provider(name, entry, secrets)
    offered = _offered(providers, table)
    for alias, entry in aliases:
        _check_alias(alias, entry, providers)
        if alias.name in offered:
            message = f"the name {alias.name!r} is offered by provider {offered[alias.name].targets[0].provider!r} too"
            _refuse(entry, message, "give the alias another name", ConfigCode.DUPLICATE_MODEL)
        offered[alias.name] = alias
    enabled = {name: model for name, model in offered.items() if _is_served(model, providers)}
    return Models(MappingProxyType(providers), MappingProxyType(enabled))


def _read_provider(name: str, table: Table, secrets: Secrets) -> ProviderConfig:
    if not _PROVIDER_NAME.fullmatch(name):
        _refuse(table, f"{name!r} is no name of a provider", "lower-case letters, digits, - and _, at most 32")
    if "url" not in table:
        fix = "a provider has a url, an alias has targets"
        _refuse(table, f"model {name!r} has neither 'url' nor 'targets'", fix, ConfigCode.URL_OR_TARGETS)
    enabled = table.flag("enabled", True)
    errors = table.findings.errors
    known = len(errors)
    wire: Wire = table.choice("wire", ("openai", "anthropic"), "openai")
    remote = read_remote(table, secrets)
    headers = {**remote.headers, **_key_header(table, wire, secrets)}
    if remote.auth is not None:
        message = "tokens that have to be obtained are not supported for model providers yet"
        table.refuse("auth", message, 'use key = "${KEY}"', ConfigCode.UNSUPPORTED)
    if "?" in remote.url:
        table.refuse("url", "the URL of a model provider cannot have a query", "paths are put behind it")
    if not enabled:
        errors[known:] = [error for error in errors[known:] if error.code not in _UNRESOLVED]
    provider = ProviderConfig(
        name=name,
        wire=wire,
        url=remote.url.rstrip("/"),
        headers=MappingProxyType(headers),
        models=_model_names(table),
        prices=_prices(table),
        timeout_s=table.number("timeout_s", DEFAULT_TIMEOUT_S, DAY_S),
        idle_timeout_s=table.number("idle_timeout_s", DEFAULT_IDLE_TIMEOUT_S, DAY_S),
        stream_usage=table.flag("stream_usage", True),
        stateful=table.flag("stateful", False),
        enabled=enabled,
        cache_s=table.count("cache_s", 0, 0, int(DAY_S)),
        semantic=_semantic(table),
        at=table.findings.lines.at(table.path),
    )
    table.finish()
    return provider


_UNRESOLVED: Final = (ConfigCode.ENV_UNSET, ConfigCode.SECRET_FILE)


def _key_header(table: Table, wire: Wire, secrets: Secrets) -> dict[str, str]:
    """`key` as the header its wire carries it in."""
    warn_of_literal_secret(table, "key", "API key", table.text("key") or "${}")
    key = table.resolved("key", secrets.value)
    if key is None:
        return {}
    if not _KEY.fullmatch(key):
        message = "the key is empty or holds characters no key may have"
        table.refuse("key", message, "is it the key alone, without 'Bearer '?", ConfigCode.HEADER)
        return {}
    return {"x-api-key": key} if wire == "anthropic" else {"Authorization": f"Bearer {key}"}


def _model_names(table: Table) -> tuple[str, ...]:
    names = table.texts("models")
    for index, name in enumerate(names):
        if not _MODEL_NAME.fullmatch(name):
            path = (*table.path, "models", index)
            table.findings.refuse(path, f"{name!r} is no name of a model", _MODEL_RULE, ConfigCode.BAD_VALUE)
    return names


def _prices(table: Table) -> Mapping[str, Price]:
    prices: dict[str, Price] = {}
    written = table.table("prices")
    for model, price in written.tables() if written else ():
        given = {key: _usd(price, key) for key in _PRICES}
        price.finish()
        if given["input"] is None or given["output"] is None:
            _refuse(price, "a price needs 'input' and 'output'", "US dollars for a million tokens, 0 where it is free")
            continue
        prices[model] = Price(given["input"], given["output"], given["cache_read"], given["cache_write"])
    return MappingProxyType(prices)


def _usd(table: Table, key: str) -> float | None:
    value = table.raw(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _MOST_USD:
        table.refuse(key, f"{key!r} is no price", "US dollars for a million tokens, 0 where it is free")
        return 0.0
    return float(value)


def _read_alias(name: str, table: Table) -> ModelConfig:
    if not _MODEL_NAME.fullmatch(name):
        _refuse(table, f"{name!r} is no name of a model", _MODEL_RULE)
    written = table.raw("targets")
    items: list[Any] = written if isinstance(written, list) else []
    targets = [target for index, item in enumerate(items) if (target := _read_target(table, index, item))]
    if not targets:
        table.refuse("targets", "'targets' must be a list of PROVIDER/MODEL", 'write targets = ["openai/gpt-5-mini"]')
    cache_s, semantic = table.count("cache_s", 0, 0, int(DAY_S)), _semantic(table)
    table.finish()
    return ModelConfig(name, tuple(targets), any(isinstance(item, dict) for item in items), cache_s, semantic)


def _semantic(table: Table) -> SemanticConfig | None:
    """`semantic_shadow = { embedder = "NAME" }`. Which ones there are is known without loading any."""
    written = table.table("semantic_shadow")
    if written is None:
        return None
    embedder = written.text("embedder") or ""
    threshold = written.number("threshold", LEAST_LIKENESS, 1.0)
    keep_s = written.number("keep_s", 3600.0, DAY_S)
    written.finish()
    known = sorted(entry.name for entry in entry_points(group=EMBEDDERS))
    if embedder not in known:
        fix = f"there are: {', '.join(known)}" if known else "install a package that brings one along"
        _refuse(written, f"there is no embedder {embedder!r}", fix)
    if threshold < LEAST_LIKENESS:
        written.refuse("threshold", "'threshold' is too low to mean the same", f"at least {LEAST_LIKENESS}")
    return SemanticConfig(embedder, threshold, keep_s)


def _read_target(table: Table, index: int, item: Any) -> ModelTarget | None:
    """One target: a text, or a table with a weight."""
    weight: Any = 1.0
    if isinstance(item, dict):
        weight = item.get("weight", 1.0)
        item = item.get("model") if set(item) <= {"model", "weight"} else None
    is_weight = isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 < weight <= _MOST_USD
    provider, slash, model = item.partition("/") if isinstance(item, str) else ("", "", "")
    if not (provider and slash and model and is_weight):
        fix = 'write "PROVIDER/MODEL" or { model = "PROVIDER/MODEL", weight = 3 }'
        table.findings.refuse((*table.path, "targets", index), "no target", fix, ConfigCode.BAD_VALUE)
        return None
    return ModelTarget(provider, model, float(weight))


def _offered(providers: Mapping[str, ProviderConfig], table: Table) -> dict[str, ModelConfig]:
    """What providers offer under their own names; one name of two providers needs an alias that says which."""
    offered: dict[str, ModelConfig] = {}
    for provider in providers.values():
        for model in provider.models:
            first = offered.get(model)
            if first is not None and first.targets[0].provider != provider.name:
                message = f"the model {model!r} is offered by provider {first.targets[0].provider!r} too"
                fix = "name it at one of them; an alias with 'targets' can lead to both"
                path = (*table.path, provider.name, "models")
                table.findings.refuse(path, message, fix, ConfigCode.DUPLICATE_MODEL)
            offered[model] = ModelConfig(
                model, (ModelTarget(provider.name, model),), cache_s=provider.cache_s, semantic=provider.semantic
            )
    return offered


def _check_alias(alias: ModelConfig, table: Table, providers: Mapping[str, ProviderConfig]) -> None:
    for index, target in enumerate(alias.targets):
        if target.provider not in providers:
            known = ", ".join(sorted(providers)) or "none"
            path = (*table.path, "targets", index)
            message = f"there is no provider {target.provider!r}"
            table.findings.refuse(path, message, f"known: {known}", ConfigCode.BAD_VALUE)


def _is_served(model: ModelConfig, providers: Mapping[str, ProviderConfig]) -> bool:
    return any(target.provider in providers and providers[target.provider].enabled for target in model.targets)


def _refuse(table: Table, message: str, fix: str, code: ConfigCode = ConfigCode.BAD_VALUE) -> None:
    findings: Findings = table.findings
    findings.refuse(table.path, message, fix, code)
