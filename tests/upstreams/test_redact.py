"""Secrets never reach an operator's eye, nor do control characters."""

from mcp_gateway.upstreams.redact import without_secrets


def test_a_secret_is_blotted_out_wherever_it_stands() -> None:
    assert without_secrets("a=hunter22 b=hunter22!", ["hunter22"]) == "a=*** b=***!"


def test_the_token_inside_a_header_is_blotted_out_too() -> None:
    assert without_secrets("token abcdef-123 refused", ["Bearer abcdef-123"]) == "token *** refused"


def test_a_secret_that_contains_another_goes_whole() -> None:
    assert without_secrets("secret-long-one", ["secret", "secret-long-one"]) == "***"


def test_short_settings_stay_readable() -> None:
    assert without_secrets("level info", ["info"]) == "level info"


def test_terminal_tricks_are_taken_out() -> None:
    assert without_secrets("a\x1b[31mb\rc\x07\nd\u009b", []) == "a[31mbc\nd"
