"""Names that could be taken for one another have one skeleton; others do not."""

import pytest

from mcp_gateway.catalog.likeness import skeleton


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("get_issue", "getIssue"),
        ("get_issue", "get-issue"),
        ("get_issue", "get.issue"),
        ("get_issue", "get_lssue"),
        ("list_all", "1ist_all"),
        ("download", "d0wnload"),
        ("modern", "rnodern"),
        ("show", "shovv"),
        ("PAY", "pay"),
    ],
)
def test_look_alikes_meet(one: str, other: str) -> None:
    assert skeleton(one) == skeleton(other)


@pytest.mark.parametrize(
    ("one", "other"), [("get_issue", "get_issues"), ("create", "delete"), ("read", "read2"), ("a_b", "b_a")]
)
def test_others_do_not(one: str, other: str) -> None:
    assert skeleton(one) != skeleton(other)
