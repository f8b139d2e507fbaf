"""What all HTTP clients towards upstreams share."""

import ssl

from mcp_gateway.upstreams.wire import shared_tls


def test_there_is_one_tls_configuration_and_it_checks_who_is_there() -> None:
    context = shared_tls()
    assert context is shared_tls()
    assert context is not shared_tls(offers_h2=False)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
