"""An agent that no policy names, or that has not the task it asks for, is told so before anything begins."""

from pathlib import Path

import pytest

from fakes.in_process import configured
from mcp_gateway.errors import ConfigInvalid
from mcp_gateway.policy.assigned import check_agent
from mcp_gateway.wiring.policies import policy_of


def test_an_agent_must_be_in_the_policy_and_have_its_task(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    policy = policy_of(configuration)
    check_agent(configuration, policy, "reader", None)
    check_agent(configuration, policy, "reader", "read")
    with pytest.raises(ConfigInvalid, match="known: reader, writer"):
        check_agent(configuration, policy, "nobody", None)
    with pytest.raises(ConfigInvalid, match="it has: read"):
        check_agent(configuration, policy, "reader", "write")
