"""A real authorization server, a real gateway process, real clients: two people, two agents, JWTs and opaque tokens."""

import json
import random
import ssl
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import pytest

from fakes.front import modern_request
from fakes.gateway_process import GatewayProcess, serving
from fakes.issuer import ec, proof
from fakes.node import requires_node
from fakes.oidc import Oidc, client, oidc_provider
from fakes.ports import free_port
from fakes.servers import HERE

pytestmark = [pytest.mark.slow, requires_node]

HTTP = httpx2.Client(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), trust_env=False, timeout=30)
"""One for all calls, from several threads: loading certificates takes longer than a call."""

CACHE_S = 1
"""How long the gateway may go by what it was told of an opaque token."""

POLICY = """
[agents.desk]
match = 'claims.client_id == "desk"'
tasks = ["work"]
default_task = "work"

[agents.nightly]
match = 'claims.client_id == "nightly"'
tasks = ["work"]
default_task = "work"

[tasks.work]

[[tasks.work.grant]]
tools = ["sdk/echo"]
when = 'args.text == (person == null ? agent.name : person)'

[[tasks.work.grant]]
tools = ["sdk/pid"]
scopes = ["sum"]
"""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Oidc, GatewayProcess]]:
    port = free_port()
    resource = f"http://127.0.0.1:{port}/mcp"
    folder: Path = tmp_path_factory.mktemp("gateway")
    clients = [client("desk"), client("nightly"), client("gateway")]
    resources = {
        resource: {"scope": "read sum"},
        f"{resource}/work": {"scope": "read", "format": "opaque"},
        "https://other.example/mcp": {"scope": "read"},
    }
    with oidc_provider(clients, resources) as oidc:
        files = {
            "policies/p.toml": POLICY,
            "servers.toml": f"""
[gateway]
allow_addresses = ["127.0.0.0/8"]

[servers.sdk]
command = ["{sys.executable}", "-W", "ignore", "{HERE / "sdk_server.py"}"]

[identity]
scopes = ["read"]

[identity.issuers.corp]
issuer = "{oidc.issuer}"

[identity.issuers.corp.introspection]
url = "{oidc.issuer}/token/introspection"
client_id = "gateway"
client_secret = "${{S}}"
cache_s = {CACHE_S}
""",
        }
        listen = ("--listen", f"127.0.0.1:{port}")
        with serving(folder, files, options=listen, env={"S": "gateway-secret"}) as gateway:
            yield oidc, gateway


def call(
    gateway: GatewayProcess, authorization: str, tool: str, arguments: dict[str, object], **more: str
) -> httpx2.Response:
    message, named = modern_request("tools/call", {"name": tool, "arguments": arguments})
    headers = {name.replace("_", "-"): value for name, value in named.items()}
    path = more.pop("path", "")
    usual = {"content-type": "application/json", "accept": "application/json, text/event-stream"}
    sent = {**usual, **headers, "authorization": authorization, **more}
    return HTTP.post(gateway.url + path, content=json.dumps(message), headers=sent)


def resource_of(gateway: GatewayProcess) -> str:
    return gateway.url


def said(gateway: GatewayProcess, token: str, text: str) -> bool:
    """Whether a token may say this: the policy lets everybody say their own name only."""
    return call(gateway, f"Bearer {token}", "sdk__echo", {"text": text}).status_code == 200


def test_the_metadata_leads_to_the_provider(running: tuple[Oidc, GatewayProcess]) -> None:
    oidc, gateway = running
    challenge = httpx2.post(gateway.url, trust_env=False).headers["www-authenticate"]
    url = challenge.split('resource_metadata="')[1].split('"')[0]
    document = httpx2.get(url, trust_env=False).json()
    assert document["authorization_servers"] == [oidc.issuer]
    assert document["resource"] == resource_of(gateway)


def test_each_token_speaks_for_its_own_person_and_agent_in_a_thousand_interleaved_calls(
    running: tuple[Oidc, GatewayProcess],
) -> None:
    oidc, gateway = running
    resource = resource_of(gateway)
    names = {
        oidc.person_token("ann", "desk", resource, "read")["access_token"]: "corp:ann",
        oidc.person_token("ben", "desk", resource, "read")["access_token"]: "corp:ben",
        oidc.person_token("ann", "nightly", resource, "read")["access_token"]: "corp:ann",
        oidc.program_token("nightly", resource, "read"): "nightly",
        oidc.program_token("desk", resource, "read"): "desk",
    }
    everybody = [*dict.fromkeys(names.values()), "mallory"]
    draw = random.Random(5)
    asked = [(token, draw.choice(everybody)) for token in list(names) * 200]
    draw.shuffle(asked)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda one: said(gateway, *one), asked))
    wrong = Counter(
        (names[token], text)
        for (token, text), was_said in zip(asked, answers, strict=True)
        if was_said is not (names[token] == text)
    )
    assert wrong == {}
    assert sum(answers) > 100


def test_a_token_for_somebody_else_is_not_taken(running: tuple[Oidc, GatewayProcess]) -> None:
    oidc, gateway = running
    assert (
        call(gateway, f"Bearer {oidc.program_token('desk', 'https://other.example/mcp')}", "sdk__echo", {}).status_code
        == 401
    )
    identity = oidc.person_token("ann", "desk", resource_of(gateway), "read")["id_token"]
    assert call(gateway, f"Bearer {identity}", "sdk__echo", {"text": "corp:ann"}).status_code == 401


def test_a_missing_scope_is_named_and_with_it_the_call_goes_through(running: tuple[Oidc, GatewayProcess]) -> None:
    oidc, gateway = running
    resource = resource_of(gateway)
    refused = call(gateway, f"Bearer {oidc.program_token('desk', resource, 'read')}", "sdk__pid", {})
    assert refused.status_code == 403
    scope = refused.headers["www-authenticate"].split('scope="')[1].split('"')[0]
    assert scope == "read sum"
    token = oidc.program_token("desk", resource, scope)
    assert call(gateway, f"Bearer {token}", "sdk__pid", {}).status_code == 200


def test_an_opaque_token_is_good_at_its_endpoint_until_it_is_taken_back(running: tuple[Oidc, GatewayProcess]) -> None:
    oidc, gateway = running
    token = oidc.program_token("nightly", f"{resource_of(gateway)}/work", "read")
    assert "." not in token

    def ask(path: str) -> int:
        return call(gateway, f"Bearer {token}", "sdk__echo", {"text": "nightly"}, path=path).status_code

    assert ask("/work") == 200
    assert ask("") == 401
    oidc.revoke("nightly", token)
    revoked = time.monotonic()
    # Asked without a pause, so that what is remembered of it is used all the time, on the short way of plain calls too.
    while ask("/work") == 200:
        assert time.monotonic() < revoked + CACHE_S + 2, "a token that was taken back is still good"
    assert ask("/work") == 401


def test_a_token_bound_to_a_key_is_good_with_proofs_only(running: tuple[Oidc, GatewayProcess]) -> None:
    oidc, gateway = running
    key, resource = ec("holder"), resource_of(gateway)
    asking = proof(key, "", f"{oidc.issuer}/token", ath=None)
    token = oidc.program_token("nightly", resource, "read", DPoP=asking)
    shown = proof(key, token, resource)
    arguments: dict[str, object] = {"text": "nightly"}
    assert call(gateway, f"Bearer {token}", "sdk__echo", arguments).status_code == 401
    assert call(gateway, f"DPoP {token}", "sdk__echo", arguments).status_code == 401
    assert call(gateway, f"DPoP {token}", "sdk__echo", arguments, dpop=shown).status_code == 200
    assert call(gateway, f"DPoP {token}", "sdk__echo", arguments, dpop=shown).status_code == 401
