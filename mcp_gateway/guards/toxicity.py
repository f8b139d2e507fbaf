"""Insults, threats and contempt, as far as short rules in English find them.

Sentences of the plain kinds, aimed at somebody, with a score; coarse words by themselves are a kind of their own, which
is no more than coarse. What is veiled, ironic, misspelt on purpose or in another language is missed, and a text that
quotes an insult holds one. So this is a signal for audits and alerts. Where more hangs on it, a service made for it
(`[detectors.NAME]`) judges better, and what must not happen whatever the words are is for the policy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from mcp_gateway.guards.detect import Found, Shape, found_by
from mcp_gateway.guards.sentences import GAP, sentences

_NAMES: Final = (
    "idiot|moron|imbecile|cretin|loser|scum|scumbag|trash|garbage|dumbass|asshole|bastard|bitch|cunt|dickhead|wanker"
    "|parasite|vermin"
)
_VILE: Final = "stupid|dumb|worthless|pathetic|disgusting|brainless|subhuman"
_PEOPLE: Final = (
    "jews|muslims|christians|hindus|blacks|whites|asians|arabs|mexicans|africans|immigrants|migrants|refugees"
    "|foreigners|gays|lesbians|homosexuals|women|men|roma|gypsies"
)
_ANY_PEOPLE: Final = f"{_PEOPLE}|people"
_HARM: Final = "kill|murder|stab|shoot|strangle|hurt|destroy|rape|burn"
_INTENSE: Final = (
    "a|an|the|all|and|so|such|just|really|nothing|but|complete|total|absolute|utter|fucking|bloody|damn|goddamn|lazy"
    "|little|fat|ugly|useless|miserable"
)
_LOW: Final = "vermin|animals|subhuman|parasites|rats|cockroach|filth|scum|savage|inferior|plague"
_GONE: Final = "killed|shot|gassed|hanged|exterminated|wiped|burned|deported|locked|die"
_RULES: Final = sentences(
    {
        "MUCH": rf"(?:(?:{_INTENSE}|{_VILE}){GAP}){{0,5}}",
        "YOUARE": "(?:you are|you're|youre|u r|they are|they're|he is|he's|she is|she's)",
        "NAME": f"(?:(?:{_NAMES})(?:e?s)?|waste of (?:space|oxygen|air))",
        "VILE": f"(?:{_VILE})",
        "IWILL": "(?:(?:i|we) (?:will|shall|am going to|are going to)|i'll|we'll|i'm (?:going to|gonna)|im gonna)",
        "HARM": f"(?:{_HARM})",
        "YOURS": "(?:you|him|her|them|your (?:family|children|kids|wife|husband|mother))",
        "PEOPLE": f"(?:{_PEOPLE}|(?:black|white|gay|trans|disabled|poor|old) people)",
        "LOW": "(?:vermin|animals|subhumans?|parasites|rats|cockroaches|filth|scum|savages|inferior|a plague)",
        "GONE": "(?:be (?:killed|shot|gassed|hanged|exterminated|wiped out|burned|deported|locked up)|die)",
    }
)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A shape, and words of which a text holds one if it holds the shape; quicker to look for."""

    shape: Shape
    words: tuple[str, ...]

    def may_be_in(self, lowered: str) -> bool:
        return any(word in lowered for word in self.words)


def _rule(kind: str, score: float, sentence: str, words: str) -> _Rule:
    return _Rule(_RULES(kind, score, sentence), tuple(words.split("|")))


_COARSE: Final = (
    r"\b(?:(?:mother)?f[u*@]ck(?:ing|ed|ers?|s)?|(?:bull)?sh[i1*]t(?:ty|s)?|assholes?|bitch(?:es)?|cunts?)\b"
)

_ALL: Final = (
    _rule("insult", 0.8, "YOUARE MUCH (?:NAME|VILE)", f"{_NAMES}|{_VILE}|waste"),
    _rule("insult", 0.8, "(?:fucking|stupid|worthless|pathetic|useless|goddamn|filthy) NAME", f"{_NAMES}|waste"),
    _rule("insult", 0.8, "(?:fuck|screw) (?:yourself|yourselves)", "yourself|yourselves"),
    _rule("insult", 0.6, "(?:shut the (?:fuck|hell) up|nobody (?:likes|loves) you)", "shut|nobody"),
    _rule("threat", 0.9, "IWILL (?:find and |come and )?HARM YOURS", _HARM),
    _rule("threat", 0.8, "i hope (?:you|they|he|she) (?:die|dies|suffer)", "hope"),
    _rule("threat", 0.8, "(?:you|they) deserve to (?:die|suffer)", "deserve"),
    _rule("threat", 0.7, "YOUARE (?:dead meat|a dead (?:man|woman))", "dead"),
    _rule("threat", 0.7, "i know where (?:you|your (?:family|kids)) live", "know"),
    _rule("self-harm", 0.8, "(?:(?:go|just|should) (?:kill|hang|drown|cut) yourself|kys)", "yourself|kys"),
    _rule("self-harm", 0.7, "(?:everyone|everybody) (?:would|will) be better off? without you", "better"),
    _rule("self-harm", 0.7, "you should (?:just )?(?:die|end your (?:own )?life|disappear forever)", "should"),
    _rule("hate", 0.9, "PEOPLE (?:should|must|deserve to|need to|have to|ought to) (?:all )?GONE", _GONE),
    _rule("hate", 0.9, "(?:kill|gas|exterminate|shoot) (?:all )?(?:of )?(?:the |these |those )?PEOPLE", _ANY_PEOPLE),
    _rule("hate", 0.8, "PEOPLE are (?:all )?(?:just )?(?:nothing but )?LOW", _LOW),
    _rule("hate", 0.6, "(?:i|we) (?:hate|despise) (?:all )?(?:the |these |those )?PEOPLE", "hate|despise"),
    _rule("hate", 0.6, "go back to your country", "country"),
    _rule(
        "sexual", 0.7, "(?:send|show) (?:me )?(?:your |some |more )?(?:nudes|naked (?:pics|pictures))", "nudes|naked"
    ),
    _rule("sexual", 0.8, "(?:want to|wanna|going to|gonna) fuck (?:you|her|him)", "fuck"),
    _Rule(Shape("profanity", re.compile(_COARSE, re.IGNORECASE), score=0.6), ("ck", "sh", "asshole", "bitch", "cunt")),
)


class Toxicity:
    """Finds insults, threats, contempt for groups of people, and coarse words."""

    name = "toxicity"
    kinds = tuple(dict.fromkeys(rule.shape.kind for rule in _ALL))

    def scan(self, text: str) -> list[Found]:
        """What there is in one text."""
        lowered = text.lower()
        return found_by((rule.shape for rule in _ALL if rule.may_be_in(lowered)), text)
