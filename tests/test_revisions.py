"""Our words are the specification's, as the SDK has them."""

import mcp_types
from mcp_types import version

from mcp_gateway import revisions


def test_the_revisions_are_those_the_sdk_knows() -> None:
    assert tuple(version.MODERN_PROTOCOL_VERSIONS) == revisions.MODERN_VERSIONS
    assert set(revisions.LEGACY_VERSIONS) == set(version.HANDSHAKE_PROTOCOL_VERSIONS)
    assert revisions.LEGACY_VERSIONS[0] == version.LATEST_HANDSHAKE_VERSION


def test_the_reserved_keys_are_those_the_sdk_writes() -> None:
    assert revisions.META_VERSION == mcp_types.PROTOCOL_VERSION_META_KEY
    assert revisions.META_CAPABILITIES == mcp_types.CLIENT_CAPABILITIES_META_KEY
    assert revisions.META_CLIENT == mcp_types.CLIENT_INFO_META_KEY
    assert revisions.META_SERVER == mcp_types.SERVER_INFO_META_KEY
    assert revisions.META_LOG_LEVEL == mcp_types.LOG_LEVEL_META_KEY
