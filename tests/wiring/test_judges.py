"""The detectors there are, over a reload."""

from pathlib import Path

from fakes.in_process import configured
from mcp_gateway.config.detectors import BUILT_IN
from mcp_gateway.wiring.judges import Judges
from mcp_gateway.wiring.policies import detectors

OURS = '[detectors.ours]\nurl = "https://m.example/judge"\nkinds = ["abuse"]\n'


async def test_declared_services_are_there_beside_what_is_built_in(tmp_path: Path) -> None:
    judges = Judges([])
    names = judges.content(configured(tmp_path, OURS).detectors).names
    await judges.close()
    assert names["ours"] == ("abuse",)
    assert set(BUILT_IN) < names.keys()


def test_what_the_configuration_knows_as_built_in_is() -> None:
    assert {detector.name for detector in detectors()} == set(BUILT_IN)


async def test_a_service_that_has_not_changed_stays_the_same(tmp_path: Path) -> None:
    judges = Judges([])
    judges.content(configured(tmp_path, OURS).detectors)
    (first,) = judges._services
    judges.content(configured(tmp_path, f"# moved\n{OURS}").detectors)
    assert judges._services == [first]
    judges.content(configured(tmp_path, f"{OURS}timeout_s = 1\n").detectors)
    assert judges._services != [first]
    judges.content(())
    assert judges._services == []
    await judges.close()
