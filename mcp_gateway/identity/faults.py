"""Why a credential was refused: for the audit and the log, never for whoever presented it."""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """What was wrong. Audit rows and dashboards match on these."""

    MALFORMED = "malformed"  # not a token of any kind we take
    ALGORITHM = "algorithm"  # `none`, a shared-secret algorithm, or one that is not on the issuer's list
    HEADER = "header"  # a critical header parameter, or a key id that cannot be one
    TYPE = "type"  # another kind of JWT: an ID token, a refresh token, a logout token
    ISSUER = "issuer"  # nobody we trust
    KEY = "key"  # the issuer has no such key
    SIGNATURE = "signature"  # the issuer's key did not make this signature
    AUDIENCE = "audience"  # issued for somebody else, or for another endpoint of ours
    EXPIRED = "expired"  # over
    NOT_YET = "not_yet"  # from the future
    CLAIMS = "claims"  # a claim is missing, or of the wrong type
    INACTIVE = "inactive"  # the issuer says that it does not hold (any more)
    REVOKED = "revoked"  # it was taken back here
    BINDING = "binding"  # bound to a key or a certificate that was not shown
    PROOF = "proof"  # the DPoP proof is missing or does not fit
    REPLAYED = "replayed"  # the DPoP proof has been used before
    CERTIFICATE = "certificate"  # the client certificate cannot be read, or came twice
    NO_AGENT = "no_agent"  # verified, but the policy knows no agent for it
    AMBIGUOUS = "ambiguous"  # verified, but more than one agent of the policy matches it
