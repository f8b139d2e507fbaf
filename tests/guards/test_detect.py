"""Detectors: built in, chosen by name, and brought along by packages."""

import re
import sys
from pathlib import Path

import pytest

from mcp_gateway.audit.redact import RULES
from mcp_gateway.errors import ConfigInvalid
from mcp_gateway.guards.detect import Found, KnownSecrets, Shape, chosen, found_by, installed
from mcp_gateway.guards.personal import PersonalData

PLUGIN = """
from mcp_gateway.guards.detect import Found

class Shouting:
    name = "shouting"
    kinds = ("capitals",)

    def scan(self, text):
        return [Found("capitals", 0, len(text), 0.9)] if text.isupper() else []
"""


def install(folder: Path, entry: str) -> None:
    (folder / "shouting.py").write_text(PLUGIN)
    info = folder / "shouting-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shouting\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mcp_gateway.detectors]\nshouting = {entry}\n")


def test_a_package_brings_its_own_detector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "shouting:Shouting")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shouting", raising=False)
    detector = installed()["shouting"]
    assert detector.scan("HELP") == [Found("capitals", 0, 4, 0.9)]


def test_a_package_that_cannot_be_loaded_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "shouting:Whispering")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "shouting", raising=False)
    with pytest.raises(ConfigInvalid, match="entry point shouting"):
        installed()


def test_secrets_are_what_the_audit_would_redact() -> None:
    text = "use AKIAIOSFODNN7EXAMPLE and nothing else"
    (found,) = KnownSecrets(RULES).scan(text)
    assert (found.kind, text[found.start : found.end]) == ("aws", "AKIAIOSFODNN7EXAMPLE")


def test_a_shape_that_only_looks_alike_is_passed_over() -> None:
    shape = Shape("even", re.compile(r"\d+"), measure=lambda digits: len(digits) if int(digits) % 2 == 0 else 0)
    assert found_by([shape], "1 22 333 4") == [Found("even", 2, 4), Found("even", 9, 10)]


def test_a_detector_may_be_asked_for_whole_or_by_kind() -> None:
    detectors = {"personal-data": PersonalData()}
    assert chosen(detectors, ["personal-data"])[0][1] == set(PersonalData.kinds)
    assert chosen(detectors, ["personal-data/email", "personal-data/iban"])[0][1] == {"email", "iban"}


@pytest.mark.parametrize("name", ["personal", "personal-data/shoe-size", "", "/email"])
def test_a_name_nobody_bears_is_said(name: str) -> None:
    with pytest.raises(LookupError, match=f"^{re.escape(name)}$"):
        chosen({"personal-data": PersonalData()}, [name])
