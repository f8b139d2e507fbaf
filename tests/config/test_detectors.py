"""`[detectors.NAME]`: what can be written there, and what every mistake is told as."""

import base64
from pathlib import Path

import pytest

from mcp_gateway.config.detectors import DetectorConfig
from mcp_gateway.config.servers import load
from mcp_gateway.config.table import ConfigCode
from mcp_gateway.errors import ConfigInvalid

KEY = "0123456789abcdefghijklmnop"
ENVIRON = {"TOKEN": "of-the-service", "KEY": KEY, "ENCODED": "whsec_" + base64.b64encode(KEY.encode()).decode()}
OURS = '[detectors.moderation]\nurl = "https://m.example/judge"\nkinds = ["hate", "threat"]\n'


def read(folder: Path, toml: str) -> tuple[DetectorConfig, ...]:
    path = folder / "servers.toml"
    path.write_text(toml)
    return load(path, ENVIRON).detectors


def test_what_is_left_out_is_safe(tmp_path: Path) -> None:
    (found,) = read(tmp_path, OURS)
    assert (found.name, found.url, found.kinds) == ("moderation", "https://m.example/judge", ("hate", "threat"))
    assert (found.if_unavailable, found.timeout_s, found.at_once) == ("block", 2.0, 16)
    assert (found.max_bytes, found.remember_s, found.sign_key) == (256 * 1024, 60, b"")


@pytest.mark.parametrize("key", ["${KEY}", "${ENCODED}"])
def test_credential_and_key_come_from_elsewhere_and_are_never_shown(tmp_path: Path, key: str) -> None:
    written = (
        OURS + f'sign_key = "{key}"\nauth = {{ bearer = "${{TOKEN}}" }}\nif_unavailable = "pass"\nremember_s = 0\n'
    )
    (found,) = read(tmp_path, written)
    assert found.headers == {"Authorization": "Bearer of-the-service"}
    assert (found.sign_key, found.if_unavailable, found.remember_s) == (KEY.encode(), "pass", 0)
    assert KEY not in repr(found) and "of-the-service" not in repr(found)


@pytest.mark.parametrize(
    ("toml", "code", "message"),
    [
        (OURS.replace("moderation", "secrets"), ConfigCode.BAD_VALUE, "is built in"),
        (OURS.replace("moderation", "a_b"), ConfigCode.BAD_VALUE, "no name of a detector"),
        (OURS.replace('"hate"', '"Hate Speech"'), ConfigCode.BAD_VALUE, "no name of a kind"),
        (OURS.replace("kinds", "kind"), ConfigCode.BAD_VALUE, "says what it can find"),
        (OURS.replace('["hate", "threat"]', "[]"), ConfigCode.BAD_VALUE, "says what it can find"),
        (OURS.replace("https://", "ftp://"), ConfigCode.URL, "does not begin with"),
        (OURS + 'sign_key = "short"\n', ConfigCode.BAD_VALUE, "can be guessed"),
        (OURS + 'sign_key = "whsec_*"\n', ConfigCode.BAD_VALUE, "is no key"),
        (OURS + 'if_unavailable = "allow"\n', ConfigCode.BAD_VALUE, "cannot be"),
        (OURS + "timeout_s = 100\n", ConfigCode.BAD_VALUE, "out of range"),
        (OURS + 'auth = "oauth"\n', ConfigCode.UNSUPPORTED, "not supported for detectors"),
        (OURS + "surprise = 1\n", ConfigCode.UNKNOWN_KEY, "surprise"),
        (OURS + 'auth = { bearer = "${NOWHERE}" }\n', ConfigCode.ENV_UNSET, "NOWHERE"),
    ],
)
def test_a_mistake_is_told_with_its_line(tmp_path: Path, toml: str, code: ConfigCode, message: str) -> None:
    with pytest.raises(ConfigInvalid) as refusal:
        read(tmp_path, toml)
    complaint = next(each for each in refusal.value.complaints if message in each.message)
    assert complaint.code == code
    assert complaint.line in range(1, 6)
