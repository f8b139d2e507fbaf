"""`person`: accounts are added, listed and removed; no password is shown or kept."""

from typing import Any

from mcp_gateway.identity.passwords import is_right
from mcp_gateway.storage.logins import LoginStore

PASSWORD = "correct horse battery"


def add(operator: Any, name: str, password: str = PASSWORD, **more: Any) -> Any:
    return operator.run("person", "add", name, "--password-stdin", stdin=f"{password}\n", **more)


def test_an_account_is_added_listed_and_removed(operator: Any) -> None:
    said = add(operator, "ann")
    assert "policies know them as login:ann" in said.stdout
    assert "add [identity.login] to servers.toml" in said.stderr
    assert PASSWORD not in said.stdout + said.stderr
    assert operator.run("person", "list").stdout == "ann\n"
    assert operator.json("person", "remove", "ann") == {"name": "ann", "removed": True}
    assert operator.run("person", "list").stdout == "no accounts yet: mcp-gateway person add NAME\n"
    assert operator.run("person", "remove", "ann", exits=1).exit_code == 1


def test_what_is_kept_of_a_password_checks_it_and_no_more(operator: Any) -> None:
    add(operator, "ann")
    store = LoginStore(operator.folder / ".mcp-gateway")
    [person] = store.people()
    store.close()
    assert is_right(PASSWORD, person.password)
    assert PASSWORD not in person.password


def test_an_account_is_not_replaced(operator: Any) -> None:
    add(operator, "ann")
    said = add(operator, "ann", "another password", exits=1)
    assert "remove it first" in said.stderr


def test_a_bad_name_or_password_is_told(operator: Any) -> None:
    assert "12 to 256 characters" in add(operator, "ann", "short", exits=2).stderr
    assert "not the name of a person" in add(operator, "a/b", exits=2).stderr
