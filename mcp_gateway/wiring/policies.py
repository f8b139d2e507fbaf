"""Policies as a configuration names them: compiled, and held against what guards and agents there are."""

from __future__ import annotations

from collections.abc import Sequence

from mcp_gateway.audit.redact import RULES
from mcp_gateway.config.detectors import DetectorConfig
from mcp_gateway.config.servers import Configuration, ServerConfig
from mcp_gateway.config.toml_lines import did_you_mean
from mcp_gateway.errors import Complaint, ConfigInvalid, PolicyInvalid
from mcp_gateway.guards.content import Content
from mcp_gateway.guards.detect import Detector, Judge, KnownSecrets, installed
from mcp_gateway.guards.injection import Injection
from mcp_gateway.guards.personal import PersonalData
from mcp_gateway.guards.toxicity import Toxicity
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.document import load as load_policy
from mcp_gateway.policy.tables import CODE
from mcp_gateway.wiring.offers import listed_by_person


def policy_of(configuration: Configuration) -> Policy:
    """The policies a configuration names, compiled. Raises `PolicyInvalid`."""
    policy = compile_policy(load_policy(configuration.settings.policies))
    _check_detectors(policy, configuration.detectors)
    return policy


def detectors() -> list[Detector | Judge]:
    """What guards may look for: built in, or brought along by packages. Raises `ConfigInvalid`."""
    return [KnownSecrets(RULES), PersonalData(), Injection(), Toxicity(), *installed().values()]


def _check_detectors(policy: Policy, declared: Sequence[DetectorConfig]) -> None:
    """Raises `PolicyInvalid` for guards that ask for a detector nobody has."""
    if not policy.guards:
        return
    known = {name: tuple(kinds) for name, kinds in Content(detectors()).names.items()}
    known |= {detector.name: detector.kinds for detector in declared}
    names = [*known, *(f"{name}/{kind}" for name, kinds in known.items() for kind in kinds)]
    complaints = [
        Complaint(file, int(line), f"there is no detector {name!r}", did_you_mean(name, names), CODE)
        for guard in policy.guards
        for file, _, line in [guard.inspection.at.rpartition(":")]
        for name in guard.inspection.find
        if name not in names
    ]
    if complaints:
        raise PolicyInvalid(complaints)


def check_shareable(configuration: Configuration) -> None:
    """Raises `ConfigInvalid` for what several processes cannot do together."""
    found = []
    by_person = listed_by_person(configuration.servers)
    if configuration.settings.metrics_key:
        # The operators' listener is the first worker's: it would tell a part of the numbers as if it were all.
        what = "'metrics_key' is there, and several workers do not add up what they count"
        found.append(Complaint(str(configuration.path), 0, what, "take it out, or serve with --workers 1"))
    for server in configuration.servers:
        if server.enabled and server.rest is not None and server.rest.cache is not None:
            # What is written through one process would not empty the cache of another one.
            what = f"the API {server.name!r} has a cache, which several workers cannot share"
            found.append(_at(configuration, server, what, "take its cache out, or serve with --workers 1"))
        if server.name in by_person:
            # One process has all lists; it could not tell the others what is listed to each person.
            what = f"{server.name!r} lists to each person what is theirs, which several workers cannot share"
            found.append(_at(configuration, server, what, "say whose list everybody gets (list_as), or --workers 1"))
    if found:
        raise ConfigInvalid(found)


def _at(configuration: Configuration, server: ServerConfig, what: str, fix: str) -> Complaint:
    file, _, line = server.at.rpartition(":")
    return Complaint(file or str(configuration.path), int(line) if line.isdigit() else 0, what, fix)
