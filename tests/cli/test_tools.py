"""`tools`: what an agent is told, by the gateway itself, and written down as the agent's own question."""

import json
from typing import Any


def test_an_agent_s_tools_are_listed_as_the_gateway_tells_that_agent(operator: Any) -> None:
    assert "files__echo" in operator.run("tools", "--agent", "reader").stdout
    assert [tool["name"] for tool in operator.json("tools", "--agent", "writer", "--task", "write")] == ["files__echo"]


def test_it_is_in_the_audit_as_that_agent_s_question(operator: Any) -> None:
    operator.run("tools", "-a", "reader")
    [row] = [json.loads(line) for line in operator.run("log", "--json").stdout.splitlines()]
    assert (row["agent"], row["task"], row["kind"], row["identity_strength"]) == ("reader", "read", "list", "stdio")
    assert "command line" in row["client"]


def test_one_tool_is_shown_with_its_arguments(operator: Any) -> None:
    assert operator.run("tools", "files__echo", "-a", "reader").stdout.startswith("files__echo")
    assert "sees no tool 'nothing'" in " ".join(
        operator.run("tools", "nothing", "-a", "reader", exits=2).stderr.split()
    )


def test_which_agent_has_to_be_said_unless_there_is_one(operator: Any) -> None:
    assert "--agent NAME" in operator.run("tools", exits=2).stderr
    policy = '[agents.only]\ntasks = ["t"]\ndefault_task = "t"\n[tasks.t]\nallow = ["files/echo"]\n'
    operator.write({"policies/agents.toml": policy})
    assert "files__echo" in operator.run("tools").stdout
    assert "files__echo" in operator.run("tools", MCP_GATEWAY_AGENT="only").stdout


def test_an_agent_that_the_policy_does_not_name_is_refused(operator: Any) -> None:
    assert "no policy names the agent 'nobody'" in operator.run("tools", "-a", "nobody", exits=2).stderr


def test_an_agent_that_sees_nothing_is_told_where_to_look(operator: Any) -> None:
    operator.write({"policies/agents.toml": '[agents.only]\ntasks = ["t"]\ndefault_task = "t"\n[tasks.t]\n'})
    assert "mcp-gateway why" in operator.run("tools").stdout
