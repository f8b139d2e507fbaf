"""What upstreams offer under a configuration: names, bounds, and asking them without a gateway running."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from mcp_gateway.catalog.catalog import Catalog, build
from mcp_gateway.catalog.naming import NamingRule, public_name
from mcp_gateway.catalog.pins import INSTRUCTIONS, Held, Sifted, sift
from mcp_gateway.config.lock import Lock, lock_path, read_lock
from mcp_gateway.config.servers import Configuration, ServerConfig
from mcp_gateway.config.settings import Settings
from mcp_gateway.config.upstream_auth import AuthKind
from mcp_gateway.credentials.owners import BY_PERSON
from mcp_gateway.domain import Kind, Listing
from mcp_gateway.errors import Unreachable
from mcp_gateway.netguard import Allowed
from mcp_gateway.upstreams.connection import Limits as UpstreamLimits
from mcp_gateway.upstreams.login_tool import LOGIN_TOOL
from mcp_gateway.upstreams.pool import Pool
from mcp_gateway.wiring.clock import utc_text

ENVELOPE_BYTES: Final = 64 * 1024
"""What a message is longer than the result in it."""


async def catalog_of(configuration: Configuration, upstream: str, timeout_s: float) -> tuple[Catalog, tuple[Held, ...]]:
    """What one enabled upstream offers agents right now, without a gateway running, and what of it is held back.

    Raises `Unreachable` if it cannot say.
    """
    only = replace(configuration, servers=tuple(each for each in configuration.servers if each.name == upstream))
    sifted, silent = await sifted_of(only, read_lock(lock_path(configuration.path)), timeout_s)
    if not sifted:
        raise Unreachable(upstream, silent.get(upstream) or f"it has not answered within {timeout_s:.0f} s")
    rules = {server.name: naming_rule(server) for server in only.servers}
    held = tuple(each for parted in sifted.values() for each in parted.held)
    return build([parted.listing for parted in sifted.values()], rules), held


async def sifted_of(
    configuration: Configuration, lock: Lock, timeout_s: float
) -> tuple[Mapping[str, Sifted], Mapping[str, str]]:
    """What every enabled upstream offers right now and what of it is held back; and why others cannot be asked."""
    servers = [server for server in bounded(configuration) if server.enabled]
    trust = {server.name: server.trust for server in servers}
    async with Pool(limits=upstream_limits(configuration.settings)) as pool:
        await pool.apply(servers)
        await pool.settled(timeout_s)
        listings = pool.listings
        silent = {status.name: status.detail for status in pool.statuses() if status.name not in listings}
    now = utc_text()
    return {name: sift(lock.of(name), each, trust[name], now) for name, each in listings.items()}, silent


def bounded(configuration: Configuration) -> Sequence[ServerConfig]:
    """The servers, none with more time for a call than `[gateway]` allows."""
    most_s = configuration.settings.call_timeout_s
    return [replace(server, timeout_s=min(server.timeout_s, most_s)) for server in configuration.servers]


def upstream_limits(settings: Settings) -> UpstreamLimits:
    """Bounds on upstreams that let through every result that `[gateway]` allows."""
    usual = UpstreamLimits()
    return replace(
        usual,
        max_message_bytes=max(usual.max_message_bytes, settings.max_result_bytes + ENVELOPE_BYTES),
        max_answer_bytes=max(usual.max_answer_bytes, 2 * settings.max_result_bytes),
        follow_s=settings.call_timeout_s,
        admits=Allowed.of(settings.allow_addresses).admits_written,
    )


def naming_rule(server: ServerConfig) -> NamingRule:
    """How one server's targets are named and which of them exist for agents."""
    return NamingRule(
        prefix=server.prefix,
        include=server.include,
        exclude=server.exclude,
        tags=server.tags,
        tool_tags=server.tool_tags,
    )


def for_everybody(listing: Listing, servers: Sequence[ServerConfig]) -> Listing:
    """What of a list everybody may know: where each person has a login of their own, one person's resources are
    nobody else's business unless the operator said whose list it is; nor, if they said so, anything but the way in."""
    server = next((server for server in servers if server.name == listing.upstream), None)
    is_personal = server is not None and server.auth is not None and server.auth.kind is AuthKind.OAUTH
    if server is None or server.auth is None or not is_personal or server.auth.list_as:
        return listing
    if not server.auth.list_before_login:
        return replace(listing, tools=(LOGIN_TOOL,), prompts=(), resources=(), templates=())
    return replace(listing, resources=())


def listed_by_person(servers: Sequence[ServerConfig]) -> Mapping[str, ServerConfig]:
    """Those that are asked for their lists by each person with a login of their own: whose `auth` is a person's, unless
    the operator said whose list everybody gets."""

    def is_one(server: ServerConfig) -> bool:
        auth = server.auth
        if auth is None or auth.list_as or not server.enabled or server.url is None:
            return False
        return auth.kind is AuthKind.OAUTH or (auth.kind in BY_PERSON and auth.token is None)

    return {server.name: server for server in servers if is_one(server)}


def public_name_of(upstream: str, key: str, rules: Mapping[str, NamingRule]) -> tuple[Kind, str] | None:
    """The name an agent would ask for what has this key in servers.lock by; None for what has none."""
    word, _, name = key.partition(":")
    if word == INSTRUCTIONS:
        return None
    kind, rule = Kind(word), rules.get(upstream, NamingRule())
    return kind, public_name(upstream, name, rule.prefix) if kind in (Kind.TOOL, Kind.PROMPT) else name
