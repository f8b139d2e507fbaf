"""Policy files are read as one set, and every mistake in them is named with its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from mcp_gateway.errors import PolicyInvalid
from mcp_gateway.policy.document import PolicyDocument, case_files, from_sources, load

GOOD = """\
[agents.bot]
tasks = ["work"]
default_task = "work"

[tasks.work]
purpose = "Do it"
allow = ["crm/get_*",
         "prompt:crm/*"]

[[tasks.work.grant]]
tools = ["billing/refund"]
when = "args.amount < 100"

[[tasks.work.deny]]
tools = ["*"]
when = "tool.annotations.destructiveHint == true"
reason = "nothing destructive"
"""


def complaints(text: str, **more: str) -> list[str]:
    with pytest.raises(PolicyInvalid) as caught:
        from_sources({"a.toml": text, **{f"{name}.toml": content for name, content in more.items()}})
    return [str(complaint) for complaint in caught.value.complaints]


def test_everything_that_is_written_is_read_with_its_line() -> None:
    document = from_sources({"a.toml": GOOD})
    task = document.tasks["work"]
    assert (document.agents["bot"].tasks, document.agents["bot"].default_task) == (("work",), "work")
    assert task.purpose == "Do it"
    assert [str(grant.at) for grant in task.grants] == ["a.toml:7", "a.toml:8", "a.toml:10"]
    assert [str(deny.at) for deny in task.denies] == ["a.toml:14"]
    assert task.grants[2].condition is not None
    assert task.denies[0].reason == "nothing destructive"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[agent.bot]\n", "a.toml:1: unknown key 'agent' (did you mean 'agents'?)"),
        ("[agents.bot]\n\ntaks = []\ntasks = []\n", "a.toml:3: unknown key 'taks' (did you mean 'tasks'?)"),
        ("[agents.bot]\n", "a.toml:1: 'tasks' is missing"),
        ("[agents.bot]\ntasks = 'x'\n", "a.toml:2: 'tasks' must be a list"),
        ("[agents.bot]\ntasks = [\n3]\n", "a.toml:3: 'tasks' must be a list of texts"),
        ("[agents]\nbot = 1\n", "a.toml:2: 'agents.bot' must be a table (write [agents.bot])"),
        ("agents = 1\n", "a.toml:1: 'agents' must be a table"),
        ("[agents.'a b']\ntasks = []\n", "a.toml:1: 'a b' cannot be the name"),
        ("[agents.bot]\ntasks = ['wrok']\n[tasks.work]\n", "a.toml:2: there is no task 'wrok' (did you mean 'work'?)"),
        ("[agents.bot]\ntasks = []\ndefault_task = 'x'\n[tasks.x]\n", "a.toml:3: default_task 'x' is not among"),
        ("[tasks.t]\nallow = [\n'crm/x',\n'crm']\n", "a.toml:4: 'crm' is not upstream/name"),
        ("[tasks.t]\nallow = ['']\n", "a.toml:2: an empty pattern"),
        ("[tasks.t]\nallow = ['*/x']\n", "a.toml:2: '*/x': a grant names its upstream"),
        ("[tasks.t]\ngrant = ['a/b']\n", "a.toml:2: 'grant' must be tables (write [[tasks.t.grant]])"),
        ("[[tasks.t.grant]]\nwhen = 'true'\n", "a.toml:1: 'tools' is missing"),
        ("[[tasks.t.deny]]\ntools = []\n", "a.toml:2: 'tools' is empty"),
        ("[[tasks.t.grant]]\ntools = ['a/b']\n\nwhen = 'arg.x == 1'\n", "a.toml:4: unknown name 'arg'"),
        ("[[tasks.t.grant]]\ntools = ['a/b']\nwhen = true\n", "a.toml:3: 'when' must be a text"),
        ("[[tasks.t.grant]]\ntools = ['a/b']\nreason = 'x'\n", "a.toml:3: unknown key 'reason'"),
        ("[tasks.t]\npurpose = 3\n", "a.toml:2: 'purpose' must be a text"),
        ("x = = 1\n", "a.toml:1: not valid TOML"),
    ],
)
def test_a_mistake_is_named_where_it_stands(text: str, expected: str) -> None:
    found = complaints(text)
    assert any(complaint.startswith(expected) for complaint in found), found


@pytest.mark.parametrize("line", ["orders", "orders: /v1/**", "orders: GET v1", "GET /v1/**", ": GET /v1"])
def test_a_route_that_is_none_is_named_with_the_form_it_should_have(line: str) -> None:
    [complaint] = complaints(f"[tasks.t.routes]\nallow = ['{line}']\n")
    assert complaint.startswith("a.toml:2:")
    assert "write" in complaint


def test_drafts_are_short_for_grants_of_their_own() -> None:
    document = from_sources({"a.toml": "[tasks.t.routes]\ndrafts = ['orders/v3']\n"})
    assert [each.text for grant in document.tasks["t"].grants for each in grant.patterns] == ["route:_drafts/orders/v3"]


def test_routes_are_short_for_grants_of_each_method() -> None:
    document = from_sources({"a.toml": "[tasks.t.routes]\nallow = ['orders: GET,HEAD /v1/**']\n"})
    [grant] = document.tasks["t"].grants
    assert [pattern.text for pattern in grant.patterns] == ["route:orders/GET /v1/**", "route:orders/HEAD /v1/**"]


def test_all_mistakes_of_all_files_are_named_in_order() -> None:
    found = complaints("[agents.a]\nx = 1\n", b="y = 1\n", c="[agents.a]\ntasks = []\n")
    assert [complaint.split(": ")[0] for complaint in found] == ["a.toml:1", "a.toml:2", "b.toml:1", "c.toml:1"]
    assert "already defined at a.toml:1" in found[3]


def test_an_agent_may_name_a_task_of_another_file() -> None:
    document = from_sources({"z.toml": "[tasks.t]\n", "a.toml": "[agents.bot]\ntasks = ['t']\n"})
    assert document.agents["bot"].tasks == ("t",)


def test_tests_and_lock_files_are_no_policy(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "a.test.toml").write_text("[[case]]\n")
    (tmp_path / ".#a.toml").symlink_to("nowhere")
    (tmp_path / "notes.txt").write_text("x = = 1")
    document = load(tmp_path)
    assert list(document.sources) == [f"{tmp_path.name}/a.toml"]
    assert document.warnings == ()
    assert case_files(tmp_path) == [tmp_path / "a.test.toml"]


def test_files_are_named_the_same_on_every_machine(tmp_path: Path) -> None:
    texts = []
    for machine in ("one", "two"):
        (tmp_path / machine / "policies").mkdir(parents=True)
        (tmp_path / machine / "policies" / "a.toml").write_text(GOOD)
        document = load(tmp_path / machine / "policies")
        texts.append([str(grant.at) for grant in document.tasks["work"].grants])
    assert texts[0] == texts[1] == ["policies/a.toml:7", "policies/a.toml:8", "policies/a.toml:10"]


@pytest.mark.parametrize("folder", ["missing", "."])
def test_no_policy_is_a_valid_policy_with_a_warning(tmp_path: Path, folder: str) -> None:
    document = load(tmp_path / folder)
    assert (document.agents, document.tasks) == ({}, {})
    assert "everything is denied" in document.warnings[0].message
    assert PolicyDocument().agents == {}


def test_a_file_that_cannot_be_read_is_a_complaint(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"x = '\xff'")
    (tmp_path / "b.toml").mkdir()
    with pytest.raises(PolicyInvalid) as caught:
        load(tmp_path)
    assert [complaint.file for complaint in caught.value.complaints] == [f"{tmp_path.name}/{n}.toml" for n in "ab"]


def test_a_directory_that_is_a_file_is_a_complaint(tmp_path: Path) -> None:
    (tmp_path / "policies").write_text("")
    with pytest.raises(PolicyInvalid, match="cannot be read"):
        load(tmp_path / "policies")


def test_a_match_sees_claims_and_nothing_that_comes_of_knowing_who_it_is() -> None:
    document = from_sources({"a.toml": "[agents.bot]\ntasks = []\nmatch = 'claims.azp == \"bot\"'\n"})
    assert document.agents["bot"].match is not None
    for name in ("agent.name", "person", "task.name", "args.x", "tool.name", "request.era"):
        [complaint] = complaints(f"[agents.bot]\ntasks = []\nmatch = '{name} == \"x\"'\n")
        assert "a.toml:3" in complaint
        assert "'match' cannot refer to" in complaint


def test_a_match_that_cannot_be_compiled_is_a_complaint() -> None:
    [complaint] = complaints("[agents.bot]\ntasks = []\nmatch = 'claims.azp ='\n")
    assert complaint.startswith("a.toml:3")


@pytest.mark.parametrize("scope", ["a b", "", 'a"b', "a\\b", "é"])
def test_a_scope_is_one_word(scope: str) -> None:
    [complaint] = complaints(f"[[tasks.t.grant]]\ntools = ['a/b']\nscopes = ['{scope}']\n")
    assert "is no scope" in complaint


def test_a_deny_asks_for_no_scopes() -> None:
    [complaint] = complaints("[[tasks.t.deny]]\ntools = ['a/b']\nscopes = ['a']\n")
    assert "unknown key 'scopes'" in complaint


SHADOWED = """
[agents.new]
tasks = ["t"]
[tasks.t]
allow = ["a/b"]
[[tasks.t.deny]]
tools = ["a/c"]
"""


@pytest.mark.parametrize(
    ("text", "in_shadow"),
    [
        (SHADOWED, set()),
        ("mode = 'shadow'\n" + SHADOWED, {"grant", "deny", "agent"}),
        (SHADOWED.replace("[tasks.t]", "[tasks.t]\nmode = 'shadow'"), {"grant", "deny"}),
        (SHADOWED + "mode = 'shadow'\n", {"deny"}),
        ("mode = 'enforce'\n" + SHADOWED, set()),
    ],
)
def test_a_line_is_in_shadow_by_its_own_word_its_task_s_or_its_file_s(text: str, in_shadow: set[str]) -> None:
    document = from_sources({"a.toml": text})
    task, agent = document.tasks["t"], document.agents["new"]
    found = {"grant": task.grants[0].is_shadow, "deny": task.denies[0].is_shadow, "agent": agent.is_shadow}
    assert {what for what, is_shadow in found.items() if is_shadow} == in_shadow
    assert document.has_shadow == bool(in_shadow)
    enforced = document.enforced()
    assert len(enforced.agents) == (0 if "agent" in in_shadow else 1)
    assert len(enforced.tasks["t"].grants) == (0 if "grant" in in_shadow else 1)
    assert len(enforced.tasks["t"].denies) == (0 if "deny" in in_shadow else 1)


def test_a_mode_that_does_not_exist_is_named() -> None:
    assert complaints("mode = 'shadwo'\n") == ["a.toml:1: 'mode' cannot be 'shadwo' (did you mean 'shadow'?)"]
