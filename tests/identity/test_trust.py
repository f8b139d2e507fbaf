"""servers.toml made into parts: which keys are fetched from where."""

from pathlib import Path

from fakes.issuer import FakeIssuer, issuing
from mcp_gateway.config.identity import CertificateConfig, IdentityConfig, IssuerConfig
from mcp_gateway.identity.trust import issuer_of, resource_of, tokens_of
from mcp_gateway.netguard import Allowed, Fetcher
from mcp_gateway.policy.compile import compile_policy
from mcp_gateway.policy.document import PolicyDocument

POLICY = compile_policy(PolicyDocument())


def test_without_issuers_and_certificates_there_is_nothing_that_runs() -> None:
    fetcher = Fetcher()
    assert tokens_of(IdentityConfig(), fetcher, lambda: POLICY) is None
    assert resource_of(IdentityConfig()) is None
    with_certificates = IdentityConfig(certificates=CertificateConfig("Client-Cert", ("10.0.0.1",)))
    assert tokens_of(with_certificates, fetcher, lambda: POLICY) is not None
    assert resource_of(with_certificates) is None  # nobody to be sent to


async def test_keys_come_from_a_file_an_address_or_the_issuers_metadata(tmp_path: Path) -> None:
    fetcher = Fetcher(Allowed.of(["127.0.0.0/8"]))
    async with issuing() as idp:
        idp.issuer = idp.origin
        (tmp_path / "jwks.json").write_bytes(FakeIssuer().key_set())
        ways = [
            IssuerConfig("a", idp.origin),
            IssuerConfig("a", "urn:any", jwks=f"{idp.origin}/jwks"),
            IssuerConfig("a", "urn:any", jwks_file=tmp_path / "jwks.json"),
        ]
        for way in ways:
            keys = issuer_of(way, fetcher).keys
            assert keys is not None
            assert len(await keys.keys_for("ES256", "k1")) == 1
            await keys.aclose()
    await fetcher.aclose()
