"""Azure AI Content Safety as the service that judges prompts: `text:analyze`, for each text in pieces.

Azure rates a text in each category by 0, 2, 4 or 6. It refuses texts of more than 10,000 characters. Whether it counts
code points or the units of UTF-16 is not documented: a piece has no more of either. It is cut between characters, and
at a blank if there is one near, so that no word is parted. Images are not judged.
"""

import asyncio
import json
from collections.abc import Iterator
from typing import Any, Final

from safety.http import JsonClient
from safety.judging import CheckFailed, Content, Service, Verdict
from settings.rotating import RotatingSecret

CATEGORIES: Final = ("Hate", "SelfHarm", "Sexual", "Violence")

LONGEST: Final = 10_000
"""The most characters of a text."""

_NEAR: Final = 1000
"""Characters at the end of a piece among which a blank is looked for."""

_PATH: Final = "/contentsafety/text:analyze?api-version=2024-09-01"

_PAUSE: Final = 1.0
"""Seconds before a piece that was too many is sent again, if Azure names none, or 0."""


class AzureContentSafety(Service):
    """Refuses a text with a severity of at least `threshold` in a category. `key` is that of the resource, which may be
    replaced."""

    takes_images = False

    def __init__(self, endpoint: str, key: RotatingSecret, client: JsonClient, *, threshold: int) -> None:
        self._url = endpoint + _PATH
        self._key = key
        self._client = client
        self._threshold = threshold

    async def judge(self, content: Content) -> Verdict:
        for text in filter(None, (content.prompt, content.negative_prompt)):
            for piece in pieces(text):
                found = await self._analyzed(piece)
                if found:
                    named = ", ".join(f"{category} {severity}" for category, severity in found.items())
                    reason = f"Azure AI Content Safety rates it {named}."
                    return Verdict(False, tuple(each.lower() for each in found), reason)
        return Verdict(True)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _analyzed(self, text: str) -> dict[str, int]:
        """The severities that reach the threshold, the highest first."""
        body = {"text": text, "categories": CATEGORIES, "outputType": "FourSeverityLevels"}
        sent = json.dumps(body).encode()
        while True:
            headers = {"Ocp-Apim-Subscription-Key": self._key.value or ""}
            answer = await self._client.post(self._url, sent, headers)
            if answer.status != 429:
                break
            # The timeout of the check ends this.
            await asyncio.sleep(answer.retry_after or _PAUSE)
        if answer.status != 200:
            raise CheckFailed(f"it answered {answer.status}")
        severities = {each: _severity(answer.body, each) for each in CATEGORIES}
        high = sorted(severities.items(), key=lambda each: -each[1])
        return {category: severity for category, severity in high if severity >= self._threshold}


def _severity(answer: Any, category: str) -> int:
    """Raises CheckFailed if the answer has none for this category."""
    analysis = answer.get("categoriesAnalysis") if isinstance(answer, dict) else None
    for each in analysis if isinstance(analysis, list) else ():
        if isinstance(each, dict) and each.get("category") == category:
            severity = each.get("severity")
            if isinstance(severity, int) and not isinstance(severity, bool):
                return severity
    raise CheckFailed(f"its answer has no severity of {category}")


def pieces(text: str) -> Iterator[str]:
    """A text in pieces that Azure takes. Together they are the text."""
    begin = 0
    while begin < len(text):
        end = begin + _fitting(text, begin)
        if end < len(text):
            blank = max(text.rfind(each, max(begin, end - _NEAR), end) for each in " \n")
            end = end if blank < 0 else blank + 1
        yield text[begin:end]
        begin = end


def _fitting(text: str, begin: int) -> int:
    """How many characters of a text fit into a piece that begins there."""
    part = text[begin : begin + LONGEST]
    beyond = len(part.encode("utf-16-le", "surrogatepass")) // 2 - LONGEST
    while beyond > 0:
        part = part[: len(part) - (beyond + 1) // 2]
        beyond = len(part.encode("utf-16-le", "surrogatepass")) // 2 - LONGEST
    return len(part)
