"""The CEL library is there when it is needed, and not before."""

import subprocess
import sys

import pytest

from mcp_gateway.policy.engine import compile_expression, evaluate


def test_an_expression_is_compiled_and_evaluated() -> None:
    assert compile_expression("x + 1").execute({"x": 2}) == 3
    assert evaluate("'a'.matches('a')") is True


def test_what_is_not_cel_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="parse"):
        compile_expression("1 +")


def test_a_pattern_that_is_none_is_a_runtime_error() -> None:
    with pytest.raises(RuntimeError):
        evaluate("''.matches('(')")


def test_a_gateway_without_conditions_does_not_load_it() -> None:
    code = "import sys, mcp_gateway.wiring; sys.exit('cel' in sys.modules or 'prompt_toolkit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
