"""Marks in a prompt, which choose the course of its call.

A mark is in double brackets, in the system instruction or in the last content of a user: `[[overloaded]]`,
`[[slow=3]]`. A fault (`faults`) has the same marks. Refusals, before any work:

    [[minute]] [[minute=41.9]]      429, requests per minute, with the seconds of its delay (53.016342224)
    [[minute-tokens]]               429, tokens per minute
    [[day]]                         429, requests per day, with the seconds to midnight Pacific time
    [[day-and-minute]]              429, both at once, with a delay of a few seconds
    [[hours]] [[hours=6776.4]]      429, requests per minute, with a delay of hours
    [[zero]]                        429, a limit of 0: the model is not in this tier
    [[capacity]] [[no-capacity]]    429 without details, with either message
    [[prepaid]] [[cap]] [[spend]]   429 about money: credits, the monthly cap, the ten minutes (no details)
    [[overloaded]] [[demand]]       503, with either message
    [[bad-key]] [[refused-key]]     400 API_KEY_INVALID; 401 ACCESS_TOKEN_TYPE_UNSUPPORTED
    [[leaked-key]]                  403
    [[country]] [[billing]]         400 FAILED_PRECONDITION
    [[schema]] [[states]]           400, the bare "invalid argument"; "too many states for serving"
    [[status=500]]                  an error with this status
    [[once=minute]]                 any mark, at the first call with this prompt only
    [[reset]]                       the connection is reset before anything was done

Answers:

    [[answer=text]]                 this text, or this JSON
    [[out=200]] [[chunks=10]]       the tokens of the answer; the chunks of the stream
    [[head=1]] [[first=2]] [[slow=3]]  seconds to the head, to the first chunk, and from the first chunk to the last
    [[think=500]]                   the tokens of thinking, which count within maxOutputTokens
    [[think-parts]]                 with parts of thought
    [[cached=1000]] [[cached=0.5]]  so many tokens of the prompt, or this share, come from a cache
    [[cut]] [[cut=20]]              MAX_TOKENS in the middle, or after so many tokens
    [[repeat]]                      repeats itself until MAX_TOKENS
    [[empty]] [[empty-text]]        STOP without parts; STOP with an empty text
    [[blocked]] [[blocked=JAILBREAK]]  promptFeedback.blockReason and no candidate
    [[no-candidates]]               neither
    [[finish=SAFETY]] [[no-image]]  a candidate with only this finishReason; NO_IMAGE
    [[text-then=RECITATION]]        half of the text, then this finishReason
    [[untied]]                      a cinematic story with parts that do not fit each other
    [[invalid]] [[fenced]] [[not-json]]  JSON that breaks the schema; in a fence; no JSON
    [[model=gemini-x]]              another modelVersion, which is billed if it has a price
    [[no-usage]] [[no-version]]     without usageMetadata; without modelVersion
    [[strange]]                     with fields and parts that no documentation knows

Ends of the connection:

    [[error=503]] [[error=minute]]  an error in the stream before any text: a status or a refusal. Not billed
    [[late-error=demand]]           the same after half of the text. Billed as the last chunk
    [[cut-stream]]                  the connection is reset after half of the chunks
    [[stall]] [[stall=60]]          silence after half of the chunks, then a reset
    [[silence]] [[silence=60]]      the work is done and billed, no byte comes, then a reset
    [[lost]]                        the work is done and billed, then the connection is reset without a byte
    [[no-finish]]                   the stream ends in order, without a finishReason
    [[garbage]]                     a chunk that is not JSON
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from simulator.gemini import refusals, schemas
from simulator.gemini.refusals import Refused, Violations

Marks = Mapping[str, str]

REFUSALS = frozenset(
    [
        "minute",
        "minute-tokens",
        "day",
        "day-and-minute",
        "hours",
        "zero",
        "capacity",
        "no-capacity",
        "prepaid",
        "cap",
        "spend",
        "overloaded",
        "demand",
        "bad-key",
        "refused-key",
        "leaked-key",
        "country",
        "billing",
        "schema",
        "states",
        "status",
    ]
)
OTHERS = frozenset(
    [
        "once",
        "reset",
        "answer",
        "out",
        "chunks",
        "head",
        "first",
        "slow",
        "think",
        "think-parts",
        "cached",
        "cut",
        "repeat",
        "empty",
        "empty-text",
        "blocked",
        "no-candidates",
        "finish",
        "no-image",
        "text-then",
        "invalid",
        "fenced",
        "not-json",
        "untied",
        "model",
        "no-usage",
        "no-version",
        "strange",
        "error",
        "late-error",
        "cut-stream",
        "stall",
        "silence",
        "lost",
        "no-finish",
        "garbage",
    ]
)
FOREVER = 3600.0
"""The seconds of a silence without a number."""

_NUMBERS = frozenset(
    [
        "minute",
        "hours",
        "status",
        "out",
        "chunks",
        "head",
        "first",
        "slow",
        "think",
        "cached",
        "cut",
        "stall",
        "silence",
    ]
)
_MARK = re.compile(r"\[\[([a-z-]+)(=)?")
_DELAY = 53.016342224
_HOURS = 6776.4
_SOON = 13.25
_LIMITS = {"rpm": 300, "tpm": 1_000_000, "rpd": 250}


def parse(text: str) -> dict[str, str]:
    """The marks in a text. What looks like a mark and is none is left alone."""
    if "[[" not in text:
        return {}
    found: dict[str, str] = {}
    for mark in _MARK.finditer(text):
        name, value = mark[1], _value(text, mark.end()) if mark[2] else ""
        if name in REFUSALS | OTHERS and value is not None and (mark[2] or text.startswith("]]", mark.end())):
            found[name] = value
    return {name: value for name, value in found.items() if _is_valid(name, value)}


def without(text: str) -> str:
    """A text without its marks."""
    return re.sub(r"\s*\[\[[a-z-]+(=.*?)?\]\]", "", text, flags=re.DOTALL).strip()


def number(marks: Marks, name: str, usual: float) -> float:
    """The number of a mark, or the usual one."""
    value = marks.get(name)
    return float(value) if value else usual


def refusal(marks: Marks, *, model: str, to_midnight: float) -> Refused | None:
    """The refusal that the marks name, if there is one."""
    for name in marks.keys() & REFUSALS:
        return _refusal(name, marks[name], model, to_midnight)
    return None


def in_stream(value: str, *, model: str, to_midnight: float) -> Refused:
    """The error of `[[error=…]]`: a status, or a refusal by its name."""
    name, _, rest = value.partition("=")
    if name in REFUSALS:
        return _refusal(name, rest, model, to_midnight)
    return _refusal("status", value if value.isdecimal() else "500", model, to_midnight)


def _refusal(name: str, value: str, model: str, to_midnight: float) -> Refused:
    match name:
        case "capacity":
            return refusals.no_capacity()
        case "no-capacity":
            return refusals.no_capacity(f"No capacity available for model {model} on the server")
        case "prepaid" | "cap" | "spend":
            return refusals.out_of_money(name)
        case "overloaded" | "demand":
            return refusals.overloaded(demand=name == "demand")
        case "bad-key" | "refused-key" | "leaked-key" | "country" | "billing":
            return refusals.key({"bad-key": "invalid"}.get(name, name.removesuffix("-key")))
        case "states":
            return refusals.of(400, schemas.TOO_MANY_STATES)
        case "schema" | "status":
            return _of_status(int(float(value or 500)) if name == "status" else 400)
    return _over_quota(name, value, model, to_midnight)


def _over_quota(name: str, value: str, model: str, to_midnight: float) -> Refused:
    limits, delay, tier = {
        "minute": (("rpm",), _DELAY, "paid"),
        "hours": (("rpm",), _HOURS, "paid"),
        "minute-tokens": (("tpm",), _DELAY, "paid"),
        "day": (("rpd",), to_midnight, "paid"),
        "day-and-minute": (("rpd", "rpm"), _SOON, "paid"),
        "zero": (("rpd", "rpm", "tpm"), _SOON, "free"),
    }[name]
    values = [(each, 0 if name == "zero" else _LIMITS[each]) for each in limits]
    return refusals.over_quota(Violations(model, values, float(value) if value else delay, tier=tier))


def _of_status(code: int) -> Refused:
    if code == 503:
        return refusals.overloaded()
    return refusals.no_capacity() if code == 429 else refusals.of(code)


def _value(text: str, begin: int) -> str | None:
    """The value of a mark: JSON, in which `]]` may be, or anything up to the next `]]`."""
    try:
        _, end = json.JSONDecoder().raw_decode(text, begin)
    except ValueError:
        end = -1
    if end < 0 or not text.startswith("]]", end):
        end = text.find("]]", begin)
    return text[begin:end] if end >= 0 else None


def _is_valid(name: str, value: str) -> bool:
    if name not in _NUMBERS or not value:
        return True
    try:
        return 0 <= float(value) <= 10**7
    except ValueError:
        return False


def check(text: Any) -> dict[str, str]:
    """The marks of a fault.

    Raises:
        ValueError: If it is not a text with marks only.
    """
    if not isinstance(text, str) or not (found := parse(text)) or without(text):
        raise ValueError(f"marks must be a text such as [[overloaded]], got {text!r}")
    return found
