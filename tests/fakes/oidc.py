"""A real authorization server (npm `oidc-provider`) in its own process, and people who log in without a browser."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2

from fakes.node import node_program
from fakes.ports import free_port
from mcp_gateway.domain import Json

CALLBACK = "https://agent.example/callback"


def client(client_id: str, **more: Any) -> Json:
    """A confidential client that may do everything these tests do."""
    return {
        "client_id": client_id,
        "client_secret": f"{client_id}-secret",
        "redirect_uris": [CALLBACK],
        "grant_types": ["authorization_code", "refresh_token", "client_credentials"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
        **more,
    }


@dataclass
class Oidc:
    """One running provider."""

    issuer: str
    process: subprocess.Popen[str]

    def token(self, client_id: str, form: Mapping[str, str], **headers: str) -> Json:
        """Ask the token endpoint."""
        pair = b64encode(f"{client_id}:{client_id}-secret".encode()).decode()
        with httpx2.Client(trust_env=False) as http:
            url = f"{self.issuer}/token"
            response = http.post(url, data=dict(form), headers={"Authorization": f"Basic {pair}", **headers})
        assert response.status_code == 200, response.text
        return dict(response.json())

    def program_token(self, client_id: str, resource: str, scope: str = "", **headers: str) -> str:
        """A token of a program for itself (client credentials)."""
        form = {"grant_type": "client_credentials", "resource": resource, **({"scope": scope} if scope else {})}
        return str(self.token(client_id, form, **headers)["access_token"])

    def person_token(self, person: str, client_id: str, resource: str, scope: str = "") -> Json:
        """What a program gets when a person logs in to it (authorization code with PKCE)."""
        verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(12)
        asked = {
            "client_id": client_id,
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "scope": f"openid {scope}".strip(),
            "state": state,
            "resource": resource,
            "code_challenge": urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        answer = self._log_in(person, asked)
        assert answer["state"] == [state]
        assert answer["iss"] == [self.issuer]
        form = {
            "grant_type": "authorization_code",
            "code": answer["code"][0],
            "redirect_uri": CALLBACK,
            "code_verifier": verifier,
            "resource": resource,
        }
        return self.token(client_id, form)

    def revoke(self, client_id: str, token: str) -> None:
        pair = b64encode(f"{client_id}:{client_id}-secret".encode()).decode()
        with httpx2.Client(trust_env=False) as http:
            url = f"{self.issuer}/token/revocation"
            assert http.post(url, data={"token": token}, headers={"Authorization": f"Basic {pair}"}).is_success

    def _log_in(self, person: str, asked: Mapping[str, str]) -> dict[str, list[str]]:
        """Be a browser: fill in the two forms and follow every redirect up to the callback."""
        with httpx2.Client(trust_env=False) as http:
            response = http.get(f"{self.issuer}/auth", params=dict(asked))
            for _ in range(12):
                location = response.headers.get("location", "")
                if location.startswith(CALLBACK):
                    return parse_qs(urlsplit(location).query)
                if location:
                    response = http.get(urljoin(str(response.url), location))
                    continue
                [action] = re.findall(r'<form[^>]*action="([^"]+)"', response.text)
                [prompt] = re.findall(r'name="prompt" value="(\w+)"', response.text)
                form = {"prompt": prompt, "login": person, "password": "x"}
                response = http.post(urljoin(str(response.url), action), data=form)
        raise AssertionError(f"the login did not end: {response.text}")


@contextmanager
def oidc_provider(clients: list[Json], resources: Mapping[str, Json], **more: Any) -> Iterator[Oidc]:
    """A provider that listens, with these clients and resources; `more` is of its configuration."""
    configuration = {"port": free_port(), "clients": clients, "resources": resources, **more}
    command, environ = node_program("oidc_provider.mjs", json.dumps(configuration))
    process = subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        yield Oidc(json.loads(process.stdout.readline())["issuer"], process)
    finally:
        process.terminate()
        process.wait(10)
        if process.stdout is not None:
            process.stdout.close()
