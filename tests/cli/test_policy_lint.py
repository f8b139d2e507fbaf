"""`policy lint` beside what the upstreams offer, and beside what servers.lock holds."""

from cli.conftest import Operator
from fakes.operator_files import POLICY
from mcp_gateway.config.lock import Pin, UpstreamPins, digest_of, update_lock

TOOL = {"name": "echo", "inputSchema": {"type": "object"}}


def test_a_policy_in_order_passes_and_what_nobody_can_use_is_no_failure(operator: Operator) -> None:
    assert operator.run("policy", "lint").stdout == "0 findings\n"


def test_a_misspelt_tool_is_found_with_its_place(operator: Operator) -> None:
    operator.write({"policies/agents.toml": POLICY.replace('"files/echo"]', '"files/ecoh"]', 1)})
    said = operator.run("policy", "lint", exits=1).stderr
    assert "GW-LINT-NO-MATCH policies/agents.toml:11: 'files/ecoh' matches nothing" in said
    assert "did you mean 'echo'?" in said


def test_servers_lock_will_do_and_nothing_is_started(operator: Operator) -> None:
    pins = UpstreamPins({"tool:echo": Pin(digest_of(TOOL), TOOL, "approved", "")})
    update_lock(operator.folder / "servers.lock", lambda lock: lock.with_upstream("files", pins))
    operator.write({"servers.toml": '[servers.files]\ncommand = ["/nowhere/at-all"]\n'})
    assert operator.json("policy", "lint", "--locked") == []
    operator.write({"policies/agents.toml": POLICY.replace('"files/echo"]', '"files/ecoh"]', 1)})
    [finding] = operator.json("policy", "lint", "--locked", exits=1)
    assert (finding["code"], finding["line"]) == ("GW-LINT-NO-MATCH", 11)


def test_of_an_upstream_that_cannot_be_asked_nothing_is_said(operator: Operator) -> None:
    operator.write({"servers.toml": '[servers.files]\ncommand = ["/nowhere/at-all"]\n'})
    assert "nothing is said of what concerns it" in operator.run("policy", "lint").stderr
