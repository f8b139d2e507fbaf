"""`why`: what decides now, and what decided then."""

from typing import Any

import pytest
from written import DENIED, REFUSED, Writer, some_work, write

from mcp_gateway.domain import Decision, Effect, Reason, Terms
from mcp_gateway.storage.approvals import Binding
from mcp_gateway.storage.transactions import Spending, TransactionStore, Wanted
from mcp_gateway.wiring import utc_now


def test_the_line_that_allows_is_named(operator: Any) -> None:
    text = operator.run("why", "reader", "files/echo").stdout
    assert text.startswith("reader on task read: files/echo\nallowed (grant) by policies/agents.toml:11, policy ")
    assert "> grant policies/agents.toml:11: files/echo matches, without a condition" in text
    assert "could: writer on task read (allowed)" in text


def test_no_grant_is_a_no(operator: Any) -> None:
    operator.write({"policies/agents.toml": '[agents.reader]\ntasks=["t"]\ndefault_task="t"\n[tasks.t]\n'})
    found = operator.json("why", "reader", "files/echo", exits=1)
    assert (found["decision"]["effect"], found["decision"]["reason"]) == ("denied", "no_grant")


def test_arguments_settle_what_depends_on_them(operator: Any) -> None:
    words = ("why", "writer", "files/echo", "--task", "write")
    assert operator.json(*words)["decision"]["effect"] == "depends"
    assert operator.json(*words, "--args", '{"path": "public"}')["decision"]["effect"] == "allowed"
    denied = operator.run(*words, "--args", '{"path": "secret"}', exits=1).stdout
    assert "denied (deny) by policies/agents.toml:16" in denied
    assert "because: secrets stay here" in denied


def test_an_agent_nobody_named_is_denied_and_the_nearest_name_told(operator: Any) -> None:
    result = operator.run("why", "raeder", "files/echo", exits=1)
    assert "denied (unknown_agent)" in result.stdout
    assert "no policy names the agent 'raeder'\n  fix: did you mean 'reader'?" in result.stderr


def test_a_task_nobody_wrote_is_denied_and_said(operator: Any) -> None:
    result = operator.run("why", "reader", "files/echo", "--task", "raed", exits=1)
    assert "denied (task_not_assigned)" in result.stdout
    assert "no policy has the task 'raed'\n  fix: did you mean 'read'?" in result.stderr


def test_a_task_of_others_is_denied(operator: Any) -> None:
    result = operator.run("why", "reader", "files/echo", "--task", "write", exits=1)
    assert "denied (task_not_assigned)" in result.stdout
    assert result.stderr == ""


def test_a_tool_nobody_offers_is_a_no_whatever_the_policy_says_of_its_name(operator: Any) -> None:
    result = operator.run("why", "writer", "files/ehco", "--task", "write", exits=1)
    assert "upstream 'files' offers no tool 'ehco'\n  fix: did you mean 'echo'?" in result.stderr
    assert "denied (unknown_target)" in result.stdout
    assert "if it were offered:\nwriter on task write: files/ehco\nallowed (grant)" in result.stdout
    found = operator.json("why", "writer", "files/ehco", "--task", "write", exits=1)
    assert found["decision"]["reason"] == "unknown_target"


def test_a_server_nobody_configured_is_a_no(operator: Any) -> None:
    result = operator.run("why", "reader", "flies/echo", exits=1)
    assert "servers.toml has no enabled server 'flies'\n  fix: did you mean 'files'?" in result.stderr
    assert "denied (unknown_target)" in result.stdout


def test_a_request_to_a_plain_api_is_explained(operator: Any) -> None:
    route = '[servers.api.route.v3]\nmatch = ["* /v3/**"]\nstate = "draft"\n'
    servers = f'[servers.api]\nrest = "http://127.0.0.1:9"\ninclude = ["GET /v1/**"]\n{route}'
    policy = '[agents.bot]\ntasks = ["t"]\ndefault_task = "t"\n[tasks.t.routes]\nallow = ["api: * /v1/**"]\n'
    operator.write({"servers.toml": servers, "policies/agents.toml": policy + 'drafts = ["api/v3"]\n'})
    assert "allowed (grant)" in operator.run("why", "bot", "route:api/GET /v1/orders/7").stdout
    assert "allowed (grant)" in operator.run("why", "bot", "route:_drafts/api/v3").stdout
    for unknown in ("route:api/DELETE /v1/orders/7", "route:_drafts/api/v4", "route:other/GET /v1"):
        assert "denied (unknown_target)" in operator.run("why", "bot", unknown, exits=1).stdout


def test_an_upstream_that_is_down_leaves_the_policy_s_word(operator: Any) -> None:
    config = operator.folder / "servers.toml"
    config.write_text(
        config.read_text().replace('stdio.py"', 'stdio.py", "exits"').replace("stdio.py'", "stdio.py', 'exits'")
    )
    result = operator.run("why", "reader", "files/echo")
    assert "upstream 'files' cannot be asked (exited with status 5" in result.stderr
    assert "allowed (grant)" in result.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["reader"], "write an agent and a target, or the number of an audit entry"),
        (["reader", "echo"], "'echo' is not upstream/name"),
        (["reader", "*/echo"], "write upstream/tool, prompt:upstream/name, resource:upstream/URI or"),
        (["reader", "files/echo", "--args", "{bad"], "--args is not JSON: "),
        (["reader", "files/echo", "--args", "[1]"], "--args must be a JSON object"),
        (["reader", "files/echo", "--claims", '"x"'], "--claims must be a JSON object"),
        (["١"], "write an agent and a target, or the number of an audit entry"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_asked_is_said(operator: Any, words: list[str], said: str) -> None:
    text = " ".join(operator.run("why", *words, exits=2).stderr.replace("│", "").split())
    assert said.strip() in text


def test_a_past_call_is_told_and_explained_by_the_policy_of_its_time(operator: Any) -> None:
    write(operator.folder, some_work)
    operator.write({"policies/agents.toml": "[agents.reader]\ntasks = []\n"})
    [call] = operator.json_lines("log", "--agent", "reader", "--outcome", "ok", "--tool", "echo")
    result = operator.run("why", str(call["seq"]))
    for line in ("agent  reader", "name  echo", 'args  {"path":"a"}', "outcome  ok", "upstream_ms  12.4"):
        assert f" {line}" in result.stdout
    assert "reader on task read: files/echo\nallowed (grant) by policies/agents.toml:11" in result.stdout
    assert result.stderr == ""
    assert operator.json("why", str(call["finished_seq"]))["decided"]["seq"] == call["seq"]
    assert operator.json("why", str(call["seq"]))["explanation"]["decision"]["grant"] == "policies/agents.toml:11"


def test_a_past_list_and_an_event_are_told_without_an_explanation(operator: Any) -> None:
    write(operator.folder, some_work)
    [listed] = operator.json_lines("log", "--tool", "tools/list")
    assert "a list: each entry of it was decided by itself" in operator.run("why", str(listed["seq"])).stdout
    [event, *_] = operator.json_lines("log", "--events")
    assert "kind  policy" in operator.run("why", str(event["seq"])).stdout


def test_an_entry_nobody_wrote_is_said(operator: Any) -> None:
    write(operator.folder, some_work)
    assert "there is no entry 999" in operator.run("why", "999", exits=2).stderr
    operator.run("why", "9" * 40, exits=2)


def test_without_an_audit_no_entry_can_be_told(operator: Any) -> None:
    assert "does not exist: the gateway makes it when it starts" in operator.run("why", "1", exits=3).stderr


def test_it_is_said_where_the_audit_does_not_hold_what_decided(operator: Any) -> None:
    allowed = Decision(Effect.ALLOWED, Reason.GRANT, "policies/agents.toml:14")

    async def public(to: Writer) -> None:
        await to.call("echo", {"path": "public"}, allowed, agent="writer", task="write")

    write(operator.folder, public, record="digest")
    [call] = operator.json_lines("log")
    result = operator.run("why", str(call["seq"]))
    assert "denied (deny_unevaluable)" in result.stdout
    assert "what was decided then is allowed (grant) by policies/agents.toml:14" in result.stderr


def test_what_agents_wrote_cannot_colour_the_terminal(operator: Any) -> None:
    async def hostile(to: Writer) -> None:
        await to.call("x\x1b[31m\u202e[red]", {"a": "\x1b[2J"}, DENIED, REFUSED)

    write(operator.folder, hostile)
    [call] = operator.json_lines("log")
    text = operator.run("why", str(call["seq"])).stdout
    assert "x\\x1b[31m\\u202e[red]" in text
    assert text.replace("\n", "").isprintable()


TASKS = """
[agents.bot]
tasks = ["ticket"]
default_task = "ticket"

[tasks.ticket]
context = ["path"]

[[tasks.ticket.grant]]
tools = ["files/echo"]
when = "args.path == task.path"
limit = { calls = 1, per = "1h" }
"""


def test_what_a_call_still_has_to_meet_is_told_and_nothing_is_used_up(operator: Any) -> None:
    operator.write({"policies/agents.toml": TASKS})
    words = ("why", "bot", "files/echo", "--args", '{"path": "a"}')
    assert operator.json(*words, exits=1)["decision"]["reason"] == "task_not_started"
    for _ in range(2):
        text = operator.run(*words, "--context", '{"path": "a"}').stdout
        assert "asks for at most 1 calls within 3600 s" in text
        assert "at this moment it goes ahead by policies/agents.toml:9" in text


def test_what_a_started_task_may_do_is_told_with_what_it_has_read(operator: Any) -> None:
    operator.write({"policies/agents.toml": TASKS})
    started = operator.json("task", "start", "bot", "ticket", "--set", "path=a")["id"]
    store = TransactionStore(operator.folder / ".mcp-gateway")
    at = int(utc_now().timestamp() * 1_000_000)
    binding = Binding("", "", None, "", "", "", "", "")
    found = store.reserve(Wanted(Terms(started, reads=frozenset({"reads-private"})), at, "files/secret", binding))
    store.settle(found.hold, started, at, "files/secret", marks=(), spent=Spending())
    store.close()
    words = ("why", "bot", "files/echo", "--started", started, "--args", '{"path": "a"}')
    assert "the task has read reads-private (files/secret)" in operator.run(*words).stdout
    assert operator.json(*words)["now"] == {
        "allowed": True,
        "reason": "",
        "by": "policies/agents.toml:9",
        "wanted": "",
        "retry_in_s": None,
        "tags_read": {"reads-private": "files/secret"},
        "calls_so_far": 0,
    }
    operator.run("why", "bot", "files/echo", "--started", "nothing", exits=2)
