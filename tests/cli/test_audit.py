"""`audit verify`: yes, or the first row that is wrong."""

import sqlite3
from contextlib import closing
from typing import Any

from written import some_work, write


def tamper(operator: Any, statement: str) -> None:
    with closing(sqlite3.connect(operator.folder / "audit.db")) as db:
        db.execute(statement)
        db.commit()


def test_a_whole_audit_is_a_yes(operator: Any) -> None:
    write(operator.folder, some_work)
    text = operator.run("audit", "verify").stdout
    assert text.startswith("ok audit.db: ")
    assert " rows, " in text
    assert operator.json("audit", "verify")["ok"] is True


def test_an_edited_row_is_named(operator: Any) -> None:
    write(operator.folder, some_work)
    tamper(operator, "UPDATE entries SET agent = 'somebody' WHERE seq = 3")
    text = operator.run("audit", "verify", exits=1).stdout
    assert text.startswith("edited at row 3: ")
    assert "NOT OK audit.db: " in text
    found = operator.json("audit", "verify", exits=1)
    assert (found["ok"], found["problems"][0]["seq"]) == (False, 3)


def test_a_cut_off_end_is_found(operator: Any) -> None:
    write(operator.folder, some_work)
    tamper(operator, "DELETE FROM entries WHERE seq > 4")
    assert "cut off" in operator.run("audit", "verify", exits=1).stdout


def test_without_the_keys_only_the_chain_is_checked_and_said_to_be(operator: Any) -> None:
    write(operator.folder, some_work)
    (operator.folder / ".mcp-gateway").rename(operator.folder / "elsewhere")
    assert "note no keys" in operator.run("audit", "verify").stdout


def test_a_missing_audit_is_neither_yes_nor_no(operator: Any) -> None:
    said = operator.run("audit", "verify", exits=3).stderr
    assert "if it has been started before, somebody removed the audit" in said
