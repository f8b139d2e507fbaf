"""The `[identity]` table: what it says, and what is wrong with it, by line."""

from pathlib import Path

import pytest

from mcp_gateway.config.identity import ALGORITHMS, IdentityConfig
from mcp_gateway.config.servers import load
from mcp_gateway.errors import ConfigInvalid
from mcp_gateway.identity import key_ring

ISSUER = '[identity.issuers.corp]\nissuer = "https://idp.example"\n'


def read(folder: Path, text: str) -> IdentityConfig:
    path = folder / "servers.toml"
    path.write_text(text)
    return load(path, {"SECRET": "s3cret"}).identity


def complaints(folder: Path, text: str) -> list[str]:
    with pytest.raises(ConfigInvalid) as raised:
        read(folder, text)
    assert "s3cret" not in str(raised.value)
    return [f"{complaint.line}: {complaint.message}" for complaint in raised.value.complaints]


def test_without_the_table_nobody_elses_tokens_are_believed(tmp_path: Path) -> None:
    assert not read(tmp_path, "").is_used


def test_one_line_is_enough_to_believe_an_issuer(tmp_path: Path) -> None:
    [issuer] = read(tmp_path, ISSUER).issuers
    assert (issuer.name, issuer.issuer, issuer.jwks, issuer.types) == ("corp", "https://idp.example", None, ("at+jwt",))
    assert issuer.algorithms == ALGORITHMS
    assert "HS256" not in issuer.algorithms


def test_the_algorithms_that_can_be_written_are_those_that_can_be_checked() -> None:
    assert set(ALGORITHMS) == set(key_ring.ALGORITHMS)


def test_everything_that_can_be_written_is_read(tmp_path: Path) -> None:
    identity = read(
        tmp_path,
        """
[identity]
url = "https://gw.example"
scopes = ["mcp"]
dpop = "required"
dpop_nonce = true

[identity.issuers.corp]
issuer = "urn:corp"
audiences = ["api://gw"]
jwks_file = "keys/jwks.json"
algorithms = ["ES256"]
types = ["application/AT+JWT", ""]
leeway_s = 5
person = "email"
introspection = { url = "https://idp.example/introspect", client_id = "gw", client_secret = "${SECRET}", cache_s = 5 }

[identity.certificates]
header = "X-Client-Cert"
proxies = ["10.0.0.0/24"]
""",
    )
    [issuer] = identity.issuers
    assert identity.dpop == "required"
    assert issuer.jwks_file == tmp_path / "keys/jwks.json"
    assert issuer.types == ("at+jwt", "")
    assert issuer.introspection is not None
    assert issuer.introspection.client_secret == "s3cret"
    assert "s3cret" not in repr(identity)
    assert identity.certificates is not None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[identity.issuers.corp]\naudiences = []", "1: 'issuer' is missing"),
        ('[identity.issuers.corp]\nissuer = ""', "2: 'issuer' is empty"),
        ('[identity.issuers.corp]\nissuer = "http://idp.example"', "2: 'issuer' does not begin with https://"),
        ('[identity.issuers.Corp]\nissuer = "https://idp.example"', "1: 'Corp' cannot be the name of an issuer"),
        (ISSUER + 'jwks = "http://idp.example/"', "3: 'jwks' does not begin with https://"),
        (ISSUER + 'jwks = "https://a/"\njwks_file = "x"', "4: both 'jwks' and 'jwks_file'"),
        (ISSUER + 'algorithms = ["HS256"]', "3: 'algorithms' holds none, or one that is not accepted"),
        (ISSUER + 'algorithms = ["none"]', "3: 'algorithms' holds none, or one that is not accepted"),
        (ISSUER + "algorithms = []", "3: 'algorithms' holds none, or one that is not accepted"),
        (ISSUER + "types = []", "3: 'types' holds none, or something that is no type"),
        (ISSUER + "leeway_s = 301", "3: 'leeway_s' is out of range"),
        (ISSUER + 'person = "a b"', "3: 'person' is not the name of a claim"),
        (ISSUER + "introspection = {}", "3: 'client_id' is missing"),
        (ISSUER + '[identity.issuers.b]\nissuer = "https://idp.example"', "4: it is issuer 'corp' already"),
        ('[identity]\nurl = "https://gw.example/mcp"', "2: 'url' is not an origin"),
        ('[identity]\nurl = "https://GW.example"', "2: 'url' is not an origin"),
        ('[identity]\nurl = "gw.example"', "2: 'url' is not an origin"),
        ('[identity]\nscopes = ["a b"]', "2: 'scopes' holds something that is no scope"),
        ('[identity]\nscopes = ["a\\"b"]', "2: 'scopes' holds something that is no scope"),
        ('[identity]\ndpop = "maybe"', "2: 'dpop' cannot be 'maybe'"),
        ("[identity]\nissuer = 1", "2: unknown key 'issuer'"),
        ('[identity.certificates]\nheader = "Authorization"\nproxies = ["10.0.0.1"]', "'header' is missing or cannot"),
        ('[identity.certificates]\nheader = "C"\nproxies = []', "'proxies' is missing or holds no networks"),
        ('[identity.certificates]\nheader = "C"\nproxies = ["proxy"]', "'proxies' is missing or holds no networks"),
        (
            '[gateway]\nlisten = "0.0.0.0:1"\nallowed_hosts = ["a"]\n[identity]\nscopes = []',
            "4: 'url' is missing",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert any(said in complaint for complaint in complaints(tmp_path, text)), complaints(tmp_path, text)


def test_opaque_tokens_are_one_issuers(tmp_path: Path) -> None:
    asked = 'introspection = { url = "https://a.example/", client_id = "x", client_secret = "${SECRET}" }\n'
    text = ISSUER + asked + '[identity.issuers.b]\nissuer = "https://b.example"\n' + asked
    assert "'corp' is asked about opaque tokens already" in complaints(tmp_path, text)[0]


def test_plain_http_is_for_a_host_that_the_operator_named(tmp_path: Path) -> None:
    text = '[gateway]\nallow_addresses = ["idp"]\n[identity.issuers.corp]\nissuer = "http://idp"'
    assert read(tmp_path, text).issuers[0].issuer == "http://idp"
