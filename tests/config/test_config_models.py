"""`[models.NAME]`: what can be written there, and what every mistake is told as."""

from pathlib import Path

import pytest

from fakes.embedders import install
from mcp_gateway.config.models import LEAST_LIKENESS, Models, ModelTarget, SemanticConfig
from mcp_gateway.config.servers import load
from mcp_gateway.config.table import ConfigCode
from mcp_gateway.errors import ConfigInvalid

OPENAI = '[models.openai]\nurl = "https://api.example/v1/"\nkey = "${KEY}"\nmodels = ["gpt-5", "gpt-5-mini"]\n'
ENVIRON = {"KEY": "sk-0123456789"}


def models(folder: Path, toml: str) -> Models:
    path = folder / "servers.toml"
    path.write_text(toml)
    return load(path, ENVIRON).models


def test_a_provider_with_its_key_where_its_wire_wants_it(tmp_path: Path) -> None:
    written = (
        OPENAI + '[models.claude]\nwire = "anthropic"\nurl = "https://c.example"\nkey = "${KEY}"\nmodels = ["c"]\n'
    )
    found = models(tmp_path, written)
    assert found.providers["openai"].headers == {"Authorization": "Bearer sk-0123456789"}
    assert found.providers["claude"].headers == {"x-api-key": "sk-0123456789"}
    assert found.providers["openai"].url == "https://api.example/v1"
    assert set(found.offered) == {"gpt-5", "gpt-5-mini", "c"}
    assert "sk-0123456789" not in repr(found)


def test_an_alias_leads_to_targets_in_order_or_by_weight(tmp_path: Path) -> None:
    written = f"""{OPENAI}
[models.smart]
targets = ["openai/gpt-5", "openai/org/model:tag"]
[models.drawn]
targets = [{{ model = "openai/gpt-5", weight = 3 }}, "openai/gpt-5-mini"]
"""
    found = models(tmp_path, written)
    assert found.offered["smart"].targets == (ModelTarget("openai", "gpt-5"), ModelTarget("openai", "org/model:tag"))
    assert not found.offered["smart"].is_weighted
    assert [target.weight for target in found.offered["drawn"].targets] == [3, 1]
    assert found.offered["drawn"].is_weighted


def test_what_is_switched_off_is_not_offered_and_needs_no_secret(tmp_path: Path) -> None:
    written = OPENAI.replace("${KEY}", "${UNSET}") + "enabled = false\n"
    assert dict(models(tmp_path, written).offered) == {}


def test_prices_are_read_as_numbers(tmp_path: Path) -> None:
    written = f'{OPENAI}prices = {{ "gpt-5" = {{ input = 1, output = 2.5, cache_read = 0.1 }} }}\n'
    price = models(tmp_path, written).providers["openai"].prices["gpt-5"]
    assert (price.input, price.output, price.cache_read, price.cache_write) == (1, 2.5, 0.1, None)


@pytest.mark.parametrize(
    ("toml", "code", "message"),
    [
        ('[models.x]\nwire = "openai"', ConfigCode.URL_OR_TARGETS, "neither 'url' nor 'targets'"),
        ('[models.X]\nurl = "https://x"', ConfigCode.BAD_VALUE, "no name of a provider"),
        ('[models.x]\nurl = "ftp://x"', ConfigCode.URL, "https://"),
        ('[models.x]\nurl = "https://x"\nwire = "grpc"', ConfigCode.BAD_VALUE, "'wire' cannot be"),
        ('[models.x]\nurl = "https://x"\nkey = "${NO}"', ConfigCode.ENV_UNSET, "NO"),
        ('[models.x]\nurl = "https://x"\nkey = "a b"', ConfigCode.HEADER, "the key is empty"),
        ('[models.x]\nurl = "https://x"\nmodels = ["a b"]', ConfigCode.BAD_VALUE, "no name of a model"),
        ('[models.x]\nurl = "https://x"\nprices = { m = { input = 1 } }', ConfigCode.BAD_VALUE, "needs 'input'"),
        (
            '[models.x]\nurl = "https://x"\nprices = { m = { input = -1, output = 1 } }',
            ConfigCode.BAD_VALUE,
            "no price",
        ),
        ('[models.x]\nurl = "https://x?key=1"', ConfigCode.BAD_VALUE, "cannot have a query"),
        (
            '[models.x]\nurl = "https://x"\nauth = "oauth"',
            ConfigCode.UNSUPPORTED,
            "not supported for model",
        ),
        ('[models.x]\nurl = "https://x"\nretries = 3', ConfigCode.UNKNOWN_KEY, "retries"),
        ('[models.a]\ntargets = ["nobody/m"]', ConfigCode.BAD_VALUE, "there is no provider 'nobody'"),
        ("[models.a]\ntargets = []", ConfigCode.BAD_VALUE, "must be a list"),
        (f'{OPENAI}[models.a]\ntargets = ["gpt-5"]', ConfigCode.BAD_VALUE, "no target"),
        (f'{OPENAI}[models.a]\ntargets = [{{ model = "openai/m", weight = 0 }}]', ConfigCode.BAD_VALUE, "no target"),
        (f'{OPENAI}[models.gpt-5]\ntargets = ["openai/gpt-5"]', ConfigCode.DUPLICATE_MODEL, "offered by provider"),
        (
            f'{OPENAI}[models.other]\nurl = "https://o"\nmodels = ["gpt-5"]',
            ConfigCode.DUPLICATE_MODEL,
            "offered by provider 'openai' too",
        ),
        (
            '[servers.s]\ncommand = ["true"]\nsampling = "answer"\nsampling_model = "m"',
            ConfigCode.BAD_VALUE,
            "there is no model 'm'",
        ),
    ],
)
def test_each_mistake_has_its_place_and_its_code(tmp_path: Path, toml: str, code: ConfigCode, message: str) -> None:
    with pytest.raises(ConfigInvalid) as raised:
        models(tmp_path, toml)
    [complaint] = [c for c in raised.value.complaints if message in c.message]
    assert complaint.code == code
    assert complaint.line >= 1


def test_a_key_written_into_the_file_is_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "servers.toml"
    path.write_text(OPENAI.replace("${KEY}", "sk-written-down"))
    assert ConfigCode.SECRET_IN_FILE in {warning.code for warning in load(path, {}).warnings}


def test_models_alone_are_something_to_serve(tmp_path: Path) -> None:
    path = tmp_path / "servers.toml"
    path.write_text(OPENAI)
    assert ConfigCode.NO_SERVERS not in {warning.code for warning in load(path, ENVIRON).warnings}


def test_a_cache_is_asked_for_by_name_and_a_provider_asks_for_all_it_offers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", monkeypatch)
    alias = '[models.smart]\ntargets = ["openai/gpt-5"]\nsemantic_shadow = { embedder = "words" }\n'
    found = models(tmp_path, f"{OPENAI}cache_s = 60\n{alias}").offered
    assert [found[name].cache_s for name in ("gpt-5", "gpt-5-mini", "smart")] == [60, 60, 0]
    assert found["gpt-5"].semantic is None
    assert found["smart"].semantic == SemanticConfig("words", LEAST_LIKENESS, 3600)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('{ embedder = "nobody" }', "there is no embedder 'nobody'"),
        ("{}", "there is no embedder ''"),
        ('{ embedder = "words", threshold = 0.9 }', "too low to mean the same"),
        ('{ embedder = "words", answers = true }', "answers"),
    ],
)
def test_a_cache_in_shadow_needs_an_embedder_that_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str, message: str
) -> None:
    install(tmp_path / "site", monkeypatch)
    with pytest.raises(ConfigInvalid) as raised:
        models(tmp_path, f"{OPENAI}semantic_shadow = {table}\n")
    assert any(message in complaint.message and complaint.line == 5 for complaint in raised.value.complaints)
