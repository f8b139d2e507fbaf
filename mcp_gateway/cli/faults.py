"""What `doctor` can find: each fault with its code, its cause and the fix; docs/reference/errors.md is made of this.

The fix of a finding is words, and where it can be, a command that can be pasted as it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

Weight = Literal["ok", "note", "warning", "fault"]


class Code(StrEnum):
    """The stable name of each fault."""

    STDIO_ENOENT = "GW-STDIO-ENOENT"
    STDIO_START = "GW-STDIO-START"
    STDIO_EXIT = "GW-STDIO-EXIT"
    NET_DNS = "GW-NET-DNS"
    NET_REFUSED = "GW-NET-REFUSED"
    NET_ADDRESS = "GW-NET-ADDRESS"
    NET_TLS = "GW-NET-TLS"
    UPSTREAM_LOGIN = "GW-UPSTREAM-LOGIN"
    UPSTREAM_HTTP = "GW-UPSTREAM-HTTP"
    UPSTREAM_SILENT = "GW-UPSTREAM-SILENT"
    UPSTREAM_NOT_MCP = "GW-UPSTREAM-NOT-MCP"
    UPSTREAM_UNGRANTED = "GW-UPSTREAM-UNGRANTED"
    POLICY_NOBODY = "GW-POLICY-NOBODY"
    PORT_TAKEN = "GW-PORT-TAKEN"
    STATE_OPEN = "GW-STATE-OPEN"
    AUDIT_BROKEN = "GW-AUDIT-BROKEN"
    DISK_FULL = "GW-DISK-FULL"
    KEY_EXPIRED = "GW-KEY-EXPIRED"
    KEY_STRANGER = "GW-KEY-STRANGER"
    GATEWAY_VERSION = "GW-GATEWAY-VERSION"
    GATEWAY_CONFIG = "GW-GATEWAY-CONFIG"
    GATEWAY_WORKER = "GW-GATEWAY-WORKER"
    CLIENT_PROGRAM = "GW-CLIENT-PROGRAM"
    CLIENT_CONFIG = "GW-CLIENT-CONFIG"
    CLIENT_AGENT = "GW-CLIENT-AGENT"
    CLIENT_BYPASS = "GW-CLIENT-BYPASS"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a code means, for the documentation."""

    weight: Weight
    cause: str
    fix: str


FAULTS: Final[dict[Code, Fault]] = {
    Code.STDIO_ENOENT: Fault(
        "fault",
        "The program of a server's `command` is not on PATH, nor beside the gateway's own Python, or the folder it is "
        "to run in does not exist.",
        "Install the program, or write its absolute path; until then `mcp-gateway servers disable NAME`.",
    ),
    Code.STDIO_START: Fault(
        "fault",
        "The program of a server's `command` is there, and the system refuses to start it.",
        "`chmod +x` it; or it is of another platform.",
    ),
    Code.STDIO_EXIT: Fault(
        "fault",
        "A server's program started and ended before it answered. What it said last stands beside the code.",
        "Start it by hand, as shown, and see what it wants: most often an argument or a variable in `env`.",
    ),
    Code.NET_DNS: Fault(
        "fault", "No address is known for the host of a server's `url`.", "Correct the `url`, or disable the server."
    ),
    Code.NET_REFUSED: Fault(
        "fault",
        "Nobody listens at the address of a server's `url`, or a firewall is in between.",
        "Start the server, or correct host and port of its `url`.",
    ),
    Code.NET_ADDRESS: Fault(
        "fault",
        "The host name in a server's `url` leads to an address that is not public (loopback, private, link-local, a "
        "cloud's metadata service), so nothing was sent there.",
        "If that is where the server is, name the host or its network in `allow_addresses` in `[gateway]`, or write "
        "the address itself into the `url`.",
    ),
    Code.NET_TLS: Fault(
        "fault",
        "The server's certificate is not one this machine trusts: self-signed, expired, or for another name.",
        "Have the server present a valid certificate; on this machine itself, `http://127.0.0.1` needs none.",
    ),
    Code.UPSTREAM_LOGIN: Fault(
        "fault",
        "The server refuses the gateway's credential (HTTP 401 or 403), wants one and has none, or nobody has "
        "logged in to it.",
        'Log in: `mcp-gateway login NAME`; or give it one: `auth = { bearer = "${TOKEN}" }`, or renew the one it has.',
    ),
    Code.UPSTREAM_HTTP: Fault(
        "fault",
        "Something answers at the server's `url`, but not as an MCP server does: 404, a redirect, a web page.",
        "Correct the path of the `url`; most servers are at `/mcp`, older ones at `/sse`.",
    ),
    Code.UPSTREAM_SILENT: Fault(
        "fault",
        "The server runs, or its address takes connections, and it does not answer in time.",
        "Start it by hand and see what it waits for; or disable it.",
    ),
    Code.UPSTREAM_NOT_MCP: Fault(
        "fault",
        "What the server says is not MCP, or breaks the protocol.",
        "Is it an MCP server? Its first words stand beside the code. Until it is one, disable it.",
    ),
    Code.UPSTREAM_UNGRANTED: Fault(
        "warning",
        "A server is on and no grant of the policy speaks of it: no agent can use anything of it.",
        'Add `"NAME/TOOL"` to a task\'s `allow`, or disable the server.',
    ),
    Code.POLICY_NOBODY: Fault(
        "warning",
        "The policy names no agent, so everything is denied to everybody.",
        "Add `[agents.NAME]` to a file in the policies folder; docs/how-to/policy-from-nothing.md shows how.",
    ),
    Code.PORT_TAKEN: Fault(
        "warning",
        "Another program listens on the port that `mcp-gateway serve` would take.",
        "Serve on another port, or stop that program. Agents that come by `mcp-gateway stdio` need no port.",
    ),
    Code.STATE_OPEN: Fault(
        "fault",
        "The state folder or a file in it belongs to somebody else, is open to others, or cannot be entered. The "
        "gateway does not start: whoever can write there could pretend to be any agent.",
        "Make it yours alone, as shown.",
    ),
    Code.AUDIT_BROKEN: Fault(
        "fault",
        "The audit's file cannot be opened as what it is, or its rows do not verify: somebody edited, cut or "
        "replaced it.",
        "Keep the broken file as evidence, move it away, and restore a backup or start a new one.",
    ),
    Code.DISK_FULL: Fault(
        "fault",
        "Where the audit is kept, there is hardly room left. With none the gateway dispatches nothing.",
        "Make room, or move `audit` in `[gateway]` to another disk.",
    ),
    Code.KEY_EXPIRED: Fault(
        "warning",
        "The last key of an agent has expired, so it is let in no more over HTTP.",
        "Issue a new one, as shown.",
    ),
    Code.KEY_STRANGER: Fault(
        "warning",
        "There is a valid key for an agent that the policy does not name: it lets in, and may do nothing.",
        "Revoke it, as shown, or name the agent in the policy.",
    ),
    Code.GATEWAY_VERSION: Fault(
        "warning",
        "The gateway that runs is of another version than this program, so `mcp-gateway stdio` does not attach to it.",
        "Stop it; the next one to attach starts a new one.",
    ),
    Code.GATEWAY_CONFIG: Fault(
        "warning",
        "The gateway that runs could not use the last edit of servers.toml or of the policy, and goes on with the one "
        "before.",
        "Correct what `mcp-gateway check` complains about; it is taken over by itself.",
    ),
    Code.GATEWAY_WORKER: Fault(
        "warning",
        "One of several workers (`serve --workers`) does not serve at the moment: it has died and is started again.",
        "The others go on. Its log, where `serve` writes, says why; one that dies again and again waits ever longer.",
    ),
    Code.CLIENT_PROGRAM: Fault(
        "fault",
        "The gateway's entry in an agent's program starts a program that is not there any more.",
        "Write the entry again, as shown.",
    ),
    Code.CLIENT_CONFIG: Fault(
        "fault",
        "The gateway's entry in an agent's program names a servers.toml that is not there.",
        "Write the entry again, as shown.",
    ),
    Code.CLIENT_AGENT: Fault(
        "fault",
        "The gateway's entry in an agent's program speaks for an agent that the policy does not name.",
        "Write the entry again for an agent that it names, as shown.",
    ),
    Code.CLIENT_BYPASS: Fault(
        "warning",
        "An agent's program reaches servers past the gateway, though the gateway serves them too: those calls are "
        "neither decided nor written down.",
        "Take them out of the program, as shown; `--undo` brings them back.",
    ),
}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    about: str
    """What was looked at, such as `server github`."""
    weight: Weight
    said: str
    """How it is, or what is wrong."""
    code: str = ""
    fix: str = ""
    command: str = ""
    """What to type to repair it, where that is all there is to do."""


def found(code: Code, about: str, said: str, fix: str = "", command: str = "") -> Finding:
    """A fault, with the weight and, unless a better one is known, the fix of its code."""
    fault = FAULTS[code]
    return Finding(about, fault.weight, said, code, fix or fault.fix, command)


def reference() -> str:
    """The headings of docs/reference/errors.md for what `doctor` finds."""
    order = {"fault": "Fault. ", "warning": "Warning. "}
    return "\n\n".join(f"### {code}\n{order[fault.weight]}{fault.cause} {fault.fix}" for code, fault in FAULTS.items())
