"""The command line's front: which commands there are.

Exit codes: 0 all is well; 1 the answer is no (denied, a test failed, the audit does not verify); 2 something an
operator wrote or typed cannot be used; 3 a store cannot be read or written.
"""

from __future__ import annotations

import typer

from mcp_gateway import __version__
from mcp_gateway.cli import (
    approvals,
    audit,
    call,
    check,
    connect,
    content,
    doctor,
    init,
    key,
    log,
    login,
    person,
    pins,
    policy,
    serve,
    servers,
    status,
    stdio,
    task,
    tools,
    usage,
    why,
)
from mcp_gateway.cli.output import Commands

app = typer.Typer(
    name="mcp-gateway",
    cls=Commands,
    help="One MCP server in front of many: task-based access control, credentials kept away from agents, and an audit.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("init")(init.init)
app.command("connect")(connect.connect)
app.command("disconnect")(connect.disconnect)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.command("stdio")(stdio.stdio)
app.command("status")(status.status)
app.command("stop")(status.stop)
app.command("tools")(tools.tools)
app.command("call")(call.call)
app.command("check")(check.check)
app.command("why")(why.why)
app.command("log")(log.log)
app.command("usage")(usage.usage)
app.add_typer(servers.app, name="servers")
app.command("login")(login.login)
app.command("logout")(login.logout)
app.add_typer(policy.app, name="policy")
app.add_typer(pins.app, name="pins")
app.add_typer(key.app, name="key")
app.add_typer(person.app, name="person")
app.add_typer(task.app, name="task")
app.add_typer(approvals.app, name="approvals")
app.add_typer(audit.app, name="audit")
app.add_typer(content.app, name="content")


@app.callback()
def root() -> None:
    """Options belong to the commands; see `mcp-gateway COMMAND --help`."""


@app.command("version")
def version() -> None:
    """Print the version.

    Example: `mcp-gateway version`
    """
    typer.echo(__version__)
