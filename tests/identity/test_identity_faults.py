"""Every fault is one that happens: the audit's words are not a wish list."""

import pytest

from mcp_gateway.identity.faults import Fault
from tools.source import ROOT


@pytest.mark.parametrize("fault", list(Fault), ids=str)
def test_every_fault_is_found_somewhere_and_explained(fault: Fault) -> None:
    sources = [path.read_text() for path in (ROOT / "mcp_gateway").rglob("*.py") if path.name != "faults.py"]
    assert any(f"Fault.{fault.name}" in source for source in sources)
    assert f"| `{fault.value}` |" in (ROOT / "docs/reference/audit.md").read_text()
