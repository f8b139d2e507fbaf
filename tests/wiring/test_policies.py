"""Policies as a configuration names them."""

from pathlib import Path

import pytest

from fakes.in_process import configured
from mcp_gateway.errors import ConfigInvalid, PolicyInvalid
from mcp_gateway.wiring.policies import check_shareable, policy_of


def test_without_policies_nothing_is_allowed_and_that_is_said(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    (tmp_path / "policies/agents.toml").unlink()
    (tmp_path / "policies").rmdir()
    policy = policy_of(configuration)
    assert not policy.assignments
    assert "everything is denied" in policy.warnings[0].message


def test_a_guard_that_looks_for_what_nobody_can_find_is_refused_at_its_place(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    (tmp_path / "policies/guards.toml").write_text('[[guard]]\nfind = ["secrets", "personal-date"]\nthen = "mask"\n')
    with pytest.raises(PolicyInvalid) as refusal:
        policy_of(configuration)
    [complaint] = refusal.value.complaints
    assert (complaint.file, complaint.line) == ("policies/guards.toml", 1)
    assert "there is no detector 'personal-date'" in complaint.message
    assert "personal-data" in complaint.fix


def test_what_several_workers_cannot_share_is_named_at_its_place(tmp_path: Path) -> None:
    by_person = '[servers.crm]\nurl = "https://crm.example/mcp"\nauth = "oauth"\n'
    api = '[servers.api]\nrest = "https://api.example"\ncache = ["GET /**"]\n'
    with pytest.raises(ConfigInvalid) as refusal:
        check_shareable(configured(tmp_path, by_person + api))
    crm, cached = refusal.value.complaints
    assert "'crm' lists to each person" in crm.message
    assert "list_as" in crm.fix
    assert "'api' has a cache" in cached.message
    assert (crm.line, cached.line) == (1, 4)


def test_several_workers_do_not_tell_a_part_of_the_numbers_for_all(tmp_path: Path) -> None:
    keys = 'admin_key = "0123456789abcdef0123456789abcdef"\nmetrics_key = "fedcba9876543210fedcba9876543210"\n'
    with pytest.raises(ConfigInvalid) as refusal:
        check_shareable(configured(tmp_path, f'[gateway]\nadmin = "127.0.0.1:8766"\n{keys}'))
    [complaint] = refusal.value.complaints
    assert "'metrics_key'" in complaint.message
    assert "--workers 1" in complaint.fix
