"""What is printed: safe on a terminal, exit codes by whose fault it is."""

import json

import pytest
import typer
from typer.testing import CliRunner, Result

from mcp_gateway.cli.output import Commands, print_json, report, warn
from mcp_gateway.errors import Complaint, ConfigInvalid, GatewayError, PolicyInvalid, StoreUnavailable, Unreachable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigInvalid([Complaint("servers.toml", 3, "wrong", "mend it", "GW-CONFIG-X")]), 2),
        (PolicyInvalid([Complaint("a.toml", 1, "wrong")]), 2),
        (StoreUnavailable("the disk is full"), 3),
        (Unreachable("u", "is down"), 2),
    ],
)
def test_an_error_has_the_exit_code_of_its_kind(error: GatewayError, code: int) -> None:
    assert report(error) == code


def test_an_error_shows_its_code_place_cause_and_fix(capsys: pytest.CaptureFixture[str]) -> None:
    report(ConfigInvalid([Complaint("servers.toml", 3, "wrong", "mend it", "GW-CONFIG-X"), Complaint("b", 0, "too")]))
    assert capsys.readouterr().err == "GW-CONFIG-X servers.toml:3: wrong\n  fix: mend it\nGW-CONFIG b: too\n"


def test_complaints_cannot_move_or_colour_anything(capsys: pytest.CaptureFixture[str]) -> None:
    report(StoreUnavailable("\x1b[31mred\u202e"))
    warn("[red]x[/] :smile: \x07", "\x1b]0;title\x07")
    assert capsys.readouterr().err == (
        "GW-STORE-UNAVAILABLE \\x1b[31mred\\u202e\nwarning [red]x[/] :smile: \\x07\n  fix: \\x1b]0;title\\x07\n"
    )


def test_json_is_one_line_of_ascii(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "\x9b31m\u202e\ud800é\n", "n": 1}
    print_json(value)
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert printed.count("\n") == 1
    assert json.loads(printed) == value


def outcome_of(error: BaseException) -> Result:
    """How a command ends that meets `error`."""
    app = typer.Typer(cls=Commands)

    @app.callback()
    def root() -> None: ...

    @app.command()
    def fail() -> None:
        raise error

    return CliRunner().invoke(app, ["fail"])


def test_errors_out_of_nested_task_groups_are_reported_and_the_gravest_decides() -> None:
    inner = ExceptionGroup("", [StoreUnavailable("full"), ConfigInvalid([Complaint("a", 1, "wrong")])])
    result = outcome_of(ExceptionGroup("", [inner]))
    assert result.exit_code == 3
    assert result.stderr == "GW-STORE-UNAVAILABLE full\nGW-CONFIG a:1: wrong\n"


@pytest.mark.parametrize("bug", [ZeroDivisionError(), ExceptionGroup("", [ZeroDivisionError(), StoreUnavailable("x")])])
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    result = outcome_of(bug)
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError | ExceptionGroup)
