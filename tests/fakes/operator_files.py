"""A servers.toml and a policy to try commands on."""

import sys
from pathlib import Path

HOSTILE = Path(__file__).with_name("hostile_stdio.py")

SERVERS = f"""
[servers.files]
command = [{sys.executable!r}, "-S", "-E", {str(HOSTILE)!r}]
"""

POLICY = """
[agents.reader]
tasks = ["read"]
default_task = "read"

[agents.writer]
tasks = ["read", "write"]
default_task = "read"

[tasks.read]
allow = ["files/echo"]

[tasks.write]
allow = ["files/*"]

[[tasks.write.deny]]
tools = ["files/echo"]
when = 'args.path == "secret"'
reason = "secrets stay here"
"""

FILES = {"servers.toml": SERVERS, "policies/agents.toml": POLICY}
