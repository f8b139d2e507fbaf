"""A detector that is a service of the operator's: texts are posted to its URL, and it answers what it found in them.

One question holds all texts of a call that it has not judged lately, in every reading there is of them. Its verdicts
are remembered for a short time, by the texts' digests: a conversation is sent anew with every turn, and only what is
new in it is asked about. A service that keeps failing is left alone for a while (`rest.breaker`), so that calls do not
wait for it one after the other. What it did not judge is `Unjudged`; nothing here decides what becomes of that.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from mcp_gateway.config.detectors import DetectorConfig
from mcp_gateway.domain import Stage
from mcp_gateway.errors import BadRequest
from mcp_gateway.guards.detect import Found, Unjudged
from mcp_gateway.jsonrpc import dump, parse
from mcp_gateway.netguard import Answer, Fetcher, FetchFailed
from mcp_gateway.rest.breaker import Breaker, retry_after_s

MAX_ANSWER_BYTES: Final = 1024 * 1024
MAX_REMEMBERED: Final = 8192
"""Verdicts of one detector, the oldest forgotten first."""

_Verdict = tuple[Found, ...]

_log: Final = logging.getLogger(__name__)


class Webhook:
    """One `[detectors.NAME]`. Belongs to one event loop."""

    def __init__(self, config: DetectorConfig, fetcher: Fetcher, now_s: Callable[[], float]) -> None:
        """`fetcher`: one that waits at least as long as the detector's `timeout_s`; `now_s`: since the epoch."""
        self.config = config
        self.name = config.name
        self.kinds = config.kinds
        self._fetcher = fetcher
        self._now_s = now_s
        self._turns = asyncio.Semaphore(config.at_once)
        self._breaker = Breaker([(config.url, 1.0)])
        self._remembered: OrderedDict[bytes, tuple[float, _Verdict]] = OrderedDict()

    async def judge(self, stage: Stage, texts: Sequence[str]) -> Mapping[str, Sequence[Found]]:
        """See `detect.Judge`."""
        digests = {text: hashlib.sha256(f"{stage}:{text}".encode("utf-8", "surrogatepass")).digest() for text in texts}
        verdicts = {text: known for text, digest in digests.items() if (known := self._known(digest)) is not None}
        unknown = [text for text in digests if text not in verdicts]
        if unknown:
            for text, verdict in zip(unknown, await self._asked(stage, unknown), strict=True):
                verdicts[text] = verdict
                self._remember(digests[text], verdict)
        return verdicts

    def _known(self, digest: bytes) -> _Verdict | None:
        until_s, verdict = self._remembered.get(digest, (0.0, ()))
        return verdict if until_s > self._now_s() else None

    def _remember(self, digest: bytes, verdict: _Verdict) -> None:
        if self.config.remember_s:
            self._remembered[digest] = (self._now_s() + self.config.remember_s, verdict)
            self._remembered.move_to_end(digest)
            if len(self._remembered) > MAX_REMEMBERED:
                self._remembered.popitem(last=False)

    async def _asked(self, stage: Stage, texts: Sequence[str]) -> list[_Verdict]:
        """The service's verdict about each of these texts. Raises `Unjudged`."""
        try:
            body = dump({"detector": self.name, "in": stage.value, "texts": texts})
        except (TypeError, ValueError) as e:  # half a surrogate pair: no service could read it
            raise self._unjudged("a text that is no Unicode") from e
        if len(body) > self.config.max_bytes:
            raise self._unjudged(f"{len(body)} bytes to judge, and 'max_bytes' is {self.config.max_bytes}")
        address, wait_s = self._breaker.choose(self._now_s())
        if address is None:
            raise self._unjudged(f"it is left alone for {wait_s:.1f} s after failing")
        try:
            return _verdicts(await self._answer(address, body), texts, self.kinds)
        except _Unusable as e:
            _log.warning("detector %s gave no verdict: %s", self.name, e)
            raise self._unjudged(str(e)) from e

    async def _answer(self, url: str, body: bytes) -> Answer:
        """The whole answer to one question, in time. Raises `_Unusable`."""
        is_sent = False
        try:
            async with asyncio.timeout(self.config.timeout_s), self._turns:
                is_sent = True
                headers = {**self._content, **self.config.headers, **self._signature(body)}
                answer = await self._fetcher.request("POST", url, headers, body, max_bytes=MAX_ANSWER_BYTES)
        except (TimeoutError, FetchFailed) as e:
            if is_sent:  # having waited for a turn in vain says nothing of the service
                self._breaker.failed(url, self._now_s())
            raise _Unusable(str(e) or f"no answer within {self.config.timeout_s:g} s") from e
        if answer.status != 200:
            self._breaker.failed(url, self._now_s(), retry_after_s(answer.headers, self._now_s()))
            raise _Unusable(f"HTTP status {answer.status}")
        self._breaker.worked(url)
        return answer

    _content: Final = {"Content-Type": "application/json", "Accept": "application/json"}

    def _signature(self, body: bytes) -> Mapping[str, str]:
        """That it is us who ask, and when (Standard Webhooks 1.0, symmetric signatures)."""
        asked_id, at = f"msg_{secrets.token_hex(12)}", str(int(self._now_s()))
        headers = {"webhook-id": asked_id, "webhook-timestamp": at}
        if not self.config.sign_key:
            return headers
        signed = hmac.digest(self.config.sign_key, f"{asked_id}.{at}.".encode() + body, "sha256")
        return {**headers, "webhook-signature": f"v1,{base64.b64encode(signed).decode()}"}

    def _unjudged(self, why: str) -> Unjudged:
        return Unjudged(f"detector {self.name}: {why}", passes=self.config.if_unavailable == "pass")


class _Unusable(Exception):
    """No answer, or none that says anything."""


def _verdicts(answer: Answer, texts: Sequence[str], kinds: Sequence[str]) -> list[_Verdict]:
    """What an answer says of each text. Raises `_Unusable` where it says anything that is not understood."""
    try:
        value = parse(answer.body)
    except BadRequest as e:
        raise _Unusable("an answer that is no JSON") from e
    findings = value.get("findings") if isinstance(value, dict) else None
    if not isinstance(findings, list):
        raise _Unusable("an answer without a list of 'findings'")
    verdicts: list[list[Found]] = [[] for _ in texts]
    for finding in findings:
        number, found = _finding(finding, texts, kinds)
        verdicts[number].append(found)
    return [tuple(verdict) for verdict in verdicts]


def _finding(finding: Any, texts: Sequence[str], kinds: Sequence[str]) -> tuple[int, Found]:
    """Which text one finding is about, and what it is; the whole text where it does not say what part."""
    if not isinstance(finding, dict):
        raise _Unusable("a finding that is no object")
    number = _whole(finding.get("text"), "text", 0, len(texts) - 1)
    length = len(texts[number])
    start = _whole(finding.get("start", 0), "start", 0, length - 1)
    end = _whole(finding.get("end", length), "end", start + 1, length)
    kind, score = finding.get("kind"), finding.get("score", 1.0)
    if not isinstance(kind, str) or kind not in kinds:
        raise _Unusable("a finding whose 'kind' is not among its 'kinds' in servers.toml")
    if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score <= 1:
        raise _Unusable("a finding whose 'score' is not between 0 and 1")
    return number, Found(kind, start, end, float(score))


def _whole(value: Any, name: str, least: int, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise _Unusable(f"a finding whose {name!r} is out of range")
    return value
