"""The `[gateway]` table of servers.toml: where we listen, what we keep, how much we accept.

Every setting has a default that is safe on a developer's machine. Paths are absolute once read; as written they are
relative to the folder of servers.toml.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal, get_args

from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.table import ConfigCode, Table
from mcp_gateway.config.upstream_auth import ClientAuth, read_sign_in
from mcp_gateway.netguard import Allowed

MIB: Final = 1024 * 1024
DAY_S: Final = 86_400.0
LEAST_ADMIN_KEY: Final = 32
MAX_PORT: Final = 65_535

AGENT_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
AGENT_NAME_RULE: Final = "letters, digits, dots, dashes and underscores, at most 64, a letter or digit first"

_LISTEN: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(?P<port>[0-9]{1,5})")
_HOST: Final = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_ORIGIN: Final = re.compile(rf"[a-z][a-z0-9+.-]*://{_HOST.pattern}")

Durability = Literal["process", "power"]
Record = Literal["full", "preview", "digest"]
Shared = Literal["linger", "ephemeral", "stay", "off"]


@dataclass(frozen=True, slots=True)
class Settings:
    """What `[gateway]` says, defaults filled in."""

    audit: Path
    policies: Path
    state: Path
    """Folder for what the gateway itself keeps (keys, hashes); mode 0700, created when first needed."""
    host: str = "127.0.0.1"
    port: int = 8765
    durability: Durability = "process"
    """What an audit entry survives: the death of the process, or the loss of power."""
    record: Record = "preview"
    """How much of arguments and results the audit keeps; digests always."""
    shared: Shared = "linger"
    """What becomes of a gateway that `stdio` started when its last agent has left; "off": each is one by itself."""
    anonymous: str | None = None
    """The agent that requests without any credential act as. None: they are refused."""
    allowed_hosts: tuple[str, ...] = ()
    """`Host` values accepted besides loopback's own names; needed when listening anywhere else."""
    allowed_origins: tuple[str, ...] = ()
    """`Origin` values accepted from browsers; none by default."""
    sign_in: ClientAuth | None = None
    """Where people prove who they are before they log in to an upstream; None: only this machine's pages are open."""
    vault_keys: tuple[str, ...] = ()
    """Where the keys are that seal the vault (see `credentials/vault_keys`); empty: a file in `state`."""
    allow_addresses: tuple[str, ...] = ()
    """Networks and host names beyond the public internet that names may lead to, wherever the gateway connects to."""
    max_body_bytes: int = 4 * MIB
    max_header_bytes: int = 64 * 1024
    max_result_bytes: int = 16 * MIB
    """The largest answer taken from an upstream."""
    call_timeout_s: float = 300.0
    """The longest one call may take, whatever its server's `timeout_s` and however much progress it reports."""
    approval_wait_s: float = 20.0
    """How long a call that needs a person's approval is held before the agent is told to ask again."""
    task_claim: str | None = None
    """The claim of verified tokens that names the task; `authorization_details` is understood without it."""
    admin: tuple[str, int] | None = None
    """Where operators' programs start tasks and answer approvals over HTTP. None: nowhere."""
    admin_key: str | None = field(default=None, repr=False)
    """What they prove themselves with; there if `admin` is."""
    metrics_key: str | None = field(default=None, repr=False)
    """What a monitoring system reads `/metrics` with, where `admin` is. None: nothing is counted."""
    cache_bytes: int = 64 * MIB
    """How much of answers is kept at most: of plain APIs, and of models as much again."""
    cache_bytes_per_caller: int = 8 * MIB
    search_above: int = 0
    """Agents whose list would hold more tools than this get three tools to find them with; 0: never."""

    @property
    def listen(self) -> str:
        """`host:port` as a URL writes it."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address can only ever mean this machine.

    >>> is_loopback("127.0.0.2"), is_loopback("localhost"), is_loopback("0.0.0.0")
    (True, True, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def address(text: str) -> tuple[str, int] | None:
    """Host and port of `host:port`; None where it is not that.

    >>> address("[::1]:8765"), address("8765")
    (('::1', 8765), None)
    """
    match = _LISTEN.fullmatch(text)
    return (match["host"].strip("[]"), int(match["port"])) if match and int(match["port"]) <= MAX_PORT else None


def read_settings(table: Table, secrets: Secrets, listen: tuple[str, int] | None = None) -> Settings:
    """`[gateway]` with its defaults; complaints go to the table's findings. `listen` stands for what it says there."""
    base = secrets.base
    defaults = Settings(audit=base / "audit.db", policies=base / "policies", state=base / ".mcp-gateway")
    written = _listen(table, defaults, secrets)
    host, port = listen or written
    settings = Settings(
        audit=_path(table, "audit", defaults.audit, secrets),
        policies=_path(table, "policies", defaults.policies, secrets),
        state=_path(table, "state", defaults.state, secrets),
        host=host,
        port=port,
        durability=table.choice("durability", get_args(Durability), defaults.durability),
        record=table.choice("record", get_args(Record), defaults.record),
        shared=table.choice("shared", get_args(Shared), defaults.shared),
        anonymous=_anonymous(table),
        allowed_hosts=_allowed(table, "allowed_hosts", _HOST, "gateway.example or gateway.example:8765"),
        allowed_origins=_allowed(table, "allowed_origins", _ORIGIN, "https://app.example, without a path"),
        sign_in=read_sign_in(table.table("sign_in"), secrets),
        vault_keys=_vault_keys(table),
        allow_addresses=_allow_addresses(table),
        max_body_bytes=table.count("max_body_bytes", defaults.max_body_bytes, 1024, 1024 * MIB),
        max_header_bytes=table.count("max_header_bytes", defaults.max_header_bytes, 4096, MIB),
        max_result_bytes=table.count("max_result_bytes", defaults.max_result_bytes, 1024, 1024 * MIB),
        cache_bytes=table.count("cache_bytes", defaults.cache_bytes, 0, 16 * 1024 * MIB),
        cache_bytes_per_caller=table.count(
            "cache_bytes_per_caller", defaults.cache_bytes_per_caller, 0, 16 * 1024 * MIB
        ),
        search_above=table.count("search_above", defaults.search_above, 0, 1_000_000),
        call_timeout_s=table.number("call_timeout_s", defaults.call_timeout_s, DAY_S),
        approval_wait_s=table.number("approval_wait_s", defaults.approval_wait_s, DAY_S),
        task_claim=table.text("task_claim"),
        admin=_admin(table, secrets),
        admin_key=_key(table, "admin_key", secrets),
        metrics_key=_metrics_key(table, secrets),
    )
    table.finish()
    _check_reach(table, settings)
    return settings


def _path(table: Table, key: str, default: Path, secrets: Secrets) -> Path:
    written = table.resolved(key, secrets.expand)
    if written is None:
        return default
    if not written or "\0" in written:
        table.refuse(key, f"{key!r} is not a path", "write a path, relative to the folder of this file")
        return default
    return secrets.base / written


def _listen(table: Table, defaults: Settings, secrets: Secrets) -> tuple[str, int]:
    written = table.resolved("listen", secrets.expand)
    if written is None:
        return defaults.host, defaults.port
    found = address(written)
    if found is None:
        fix = 'write host:port, such as "127.0.0.1:8765" or "[::1]:8765"'
        table.refuse("listen", "'listen' is not an address and a port", fix, ConfigCode.LISTEN)
        return defaults.host, defaults.port
    return found


def _admin(table: Table, secrets: Secrets) -> tuple[str, int] | None:
    written = table.resolved("admin", secrets.expand)
    found = None if written is None else address(written)
    if written is not None and (found is None or not is_loopback(found[0])):
        fix = 'write an address of this machine and a port, such as "127.0.0.1:8766"; reach it through a tunnel'
        table.refuse("admin", "'admin' is not a loopback address and a port", fix, ConfigCode.LISTEN)
        return None
    if found is not None and "admin_key" not in table:
        fix = 'add admin_key = "${NAME}" or "file:PATH" with at least 32 random characters'
        table.refuse("admin", "'admin' needs an 'admin_key'", fix)
    return found


def _key(table: Table, name: str, secrets: Secrets) -> str | None:
    key = table.resolved(name, secrets.value)
    if key is not None and (len(key) < LEAST_ADMIN_KEY or len(set(key)) < LEAST_ADMIN_KEY // 4):
        table.refuse(name, f"{name!r} can be guessed", f"at least {LEAST_ADMIN_KEY} random characters")
        return None
    return key


def _metrics_key(table: Table, secrets: Secrets) -> str | None:
    key = _key(table, "metrics_key", secrets)
    if key is not None and "admin" not in table:
        fix = 'add admin = "127.0.0.1:8766" and an admin_key: /metrics is served there'
        table.refuse("metrics_key", "'metrics_key' needs 'admin'", fix)
    if key is not None and find_spec("prometheus_client") is None:
        fix = "pip install 'mcp-gateway[metrics]'"
        table.refuse("metrics_key", "'metrics_key' needs the package prometheus-client, which is not installed", fix)
    return key


def _anonymous(table: Table) -> str | None:
    agent = table.text("anonymous")
    if agent is None or AGENT_NAME.fullmatch(agent):
        return agent
    table.refuse("anonymous", "'anonymous' is not the name of an agent", AGENT_NAME_RULE)
    return None


def _allowed(table: Table, key: str, form: re.Pattern[str], example: str) -> tuple[str, ...]:
    written = table.texts(key)
    if not all(form.fullmatch(item) for item in written):
        table.refuse(key, f"{key!r} holds something else than exact names", f"each like {example}; no wildcards")
    return written


def _vault_keys(table: Table) -> tuple[str, ...]:
    sources = table.texts("vault_keys")
    for index, source in enumerate(sources):
        if source.partition(":")[0] not in ("file", "keyring", "command"):
            where = (*table.path, "vault_keys", index)
            fix = '"file:PATH", "keyring:NAME" or "command:PROGRAM ARGS"; never the key itself'
            table.findings.refuse(where, "'vault_keys' names where keys are", fix, ConfigCode.BAD_VALUE)
    return sources


def _allow_addresses(table: Table) -> tuple[str, ...]:
    written = table.texts("allow_addresses")
    try:
        Allowed.of(written)
    except ValueError as e:
        fix = 'each like "10.0.0.0/8", "127.0.0.1" or "idp.internal"'
        table.refuse("allow_addresses", f"'allow_addresses': {e}", fix)
        return ()
    return written


def _check_reach(table: Table, settings: Settings) -> None:
    """Whoever listens beyond this machine says under which names, or DNS rebinding could not be told from them."""
    if settings.is_loopback:
        return
    if not settings.allowed_hosts:
        fix = 'add allowed_hosts = ["the name agents use"], or listen on 127.0.0.1'
        table.refuse("listen", "listening beyond this machine needs 'allowed_hosts'", fix, ConfigCode.LISTEN)
    if settings.anonymous is not None:
        fix = "give agents keys: mcp-gateway key create AGENT"
        message = "anyone who can reach the gateway may act as the 'anonymous' agent"
        table.warn("anonymous", message, fix, ConfigCode.ANONYMOUS_BEYOND_LOOPBACK)
