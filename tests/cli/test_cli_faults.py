"""What `doctor` knows is documented, and each of it is provoked by a test."""

from pathlib import Path

from mcp_gateway.cli.faults import FAULTS, Code, found, reference


def test_every_code_has_its_cause_and_fix_and_its_heading() -> None:
    assert FAULTS.keys() == set(Code)
    for code, fault in FAULTS.items():
        assert fault.cause.endswith(".")
        assert fault.fix.endswith(".")
        assert f"### {code}\n" in reference()


def test_every_fault_is_provoked_by_a_test() -> None:
    tests = Path(__file__).with_name("test_doctor.py").read_text(encoding="utf-8")
    assert [code for code in Code if f"Code.{code.name}" not in tests] == []


def test_a_finding_has_the_weight_and_unless_there_is_a_better_one_the_fix_of_its_code() -> None:
    assert found(Code.NET_DNS, "a", "b").fix == FAULTS[Code.NET_DNS].fix
    assert found(Code.PORT_TAKEN, "a", "b", "c") == found(Code.PORT_TAKEN, "a", "b", "c", "")
    assert (found(Code.PORT_TAKEN, "a", "b", "c").weight, found(Code.PORT_TAKEN, "a", "b", "c").fix) == ("warning", "c")
