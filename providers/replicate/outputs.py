"""Reads the output of a prediction: JSON of any shape. Its texts lose all credentials, and its addresses are marked.

An address from which a file can be fetched is a `Url`: https, or plain HTTP of the upstream, which may be a simulator,
or a `data:` URI with content. Whether it counts as a file is up to the form of the output (`catalog/outputs.py`).

All declared models make pictures or films, but some answer with text instead, mostly to refuse. Such a prediction
succeeds at Replicate, and the text becomes its error. For them, a `data:` URI must contain a picture or film.
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from types import NoneType
from typing import Any, Final

from yarl import URL

from catalog.outputs import Url, is_plain_text, with_one_text
from catalog.references import decoded_data_uri
from media.formats import BY_EXTENSION, HEAD, is_text, media_type
from network.urls import origin
from providers import Prediction
from providers.redaction import Redaction
from providers.replicate.errors import cause_of

_DEEPEST: Final = 32
_TOO_DEEP: Final = "This part of the output is nested too deep."
"""Stands for lists and objects below that depth."""

_DROPPED: Final = "An output was left out, since its address holds a credential."

_URL: Final = re.compile(r"\s*(https?|data):", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"https?://\S+", re.IGNORECASE)
_HOST: Final = re.compile(r"(?=.*\w)[\w.:-]+")
_OWN_HOST: Final = re.compile(r"(?:[a-z0-9_-]+\.)*replicate\.delivery", re.IGNORECASE)
_LARGEST_ERROR: Final = 2_000
"""The most characters that are kept of a text that replaces a picture."""

_KNOWN: Final = {"image/jpg", *(each.name for each in BY_EXTENSION.values())}
"""Types that are recognized by content. Content that claims one of them must be recognized as one."""


def read_output(value: Any, redact: Redaction, depth: int = _DEEPEST) -> Any:
    """The JSON of an output, without credentials in its texts, and without numbers that JSON does not have. A text that
    looks like an address is a `Url`. A sentence stands for one that contains a credential, without which it would not
    work, and for lists and objects that are nested too deep."""
    if isinstance(value, str):
        return _read_text(value, redact)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, list | dict) and not depth:
        return _TOO_DEEP if value else value
    if isinstance(value, dict):
        return {redact.words(name): read_output(each, redact, depth - 1) for name, each in value.items()}
    if not isinstance(value, list):
        return value
    types = set(map(type, value))
    if _is_safe(value, types, redact):
        return value
    items = [read_output(each, redact, depth - 1) for each in value]
    return _without_spread(value, items, redact) if str in types else items


def _is_safe(value: list[Any], types: set[type], redact: Redaction) -> bool:
    """Whether a list stays as it is. Long ones are common, such as vectors and the words of a text, so this is fast."""
    if types == {float}:
        return all(map(math.isfinite, value))
    if types == {str}:
        joined = "".join(value)
        texts = (joined, *value) if redact.has_short else (joined,)
        return ":" not in joined and all(redact.words(each) == each for each in texts)
    return types <= {int, bool, NoneType}


def _read_text(value: str, redact: Redaction) -> str:
    if not _URL.match(value):
        return redact.words(value)
    return _DROPPED if redact.is_in(value) else Url(redact(value))


def _without_spread(given: list[Any], items: list[Any], redact: Redaction) -> list[Any]:
    """The items of a list, whose texts may be joined: a credential may be spread over several."""
    if len(items) == 1:
        return items
    texts = [each for each in items if isinstance(each, str)]
    plain = "".join(each for each in texts if not isinstance(each, Url))
    if redact.is_in(plain) or redact.is_in("".join(texts)):
        whole = redact.words("".join(each for each in given if isinstance(each, str)))
        return with_one_text(items, whole, lambda each: isinstance(each, str))
    redacted = redact.words(plain)
    return items if redacted == plain else with_one_text(items, redacted, is_plain_text)


def with_addresses_checked(prediction: Prediction, *, upstream: URL, redact: Redaction) -> Prediction:
    """The prediction, with each `Url` in its output turned into plain text if no file can be fetched there. Plain HTTP
    addresses are accepted only from the `upstream`, which may be a simulator. If text came in place of a file, it
    becomes its `error` if it has none."""
    form = prediction.form
    contains = _is_media if form.is_media else _has_content

    def checked(value: str) -> str:
        stripped = value.strip()
        if form.kind == "text":
            return str(value)
        if stripped[:5].lower() == "data:":
            return Url(stripped, is_own=True) if contains(stripped) else str(value)
        return _address(stripped, upstream) or str(value)

    prediction = replace(prediction, output=_with_urls(prediction.output, checked))
    if prediction.error or not prediction.produced.refusal:
        return prediction
    refusal = " ".join(redact.words(prediction.produced.refusal).split())
    if not refusal:
        return prediction
    refusal = _DROPPED if _DROPPED in refusal else refusal[:_LARGEST_ERROR]
    # It succeeded and may be billed, so it is not tried again.
    return replace(prediction, error=refusal, cause="content" if cause_of(refusal) == "content" else "model")


def _with_urls(value: Any, checked: Callable[[str], str]) -> Any:
    if isinstance(value, Url):
        return checked(value)
    if isinstance(value, dict):
        return {name: _with_urls(each, checked) for name, each in value.items()}
    if isinstance(value, list):
        return [_with_urls(each, checked) if isinstance(each, str | list | dict) else each for each in value]
    return value


def _address(value: str, upstream: URL) -> Url | None:
    try:
        url = URL(value, encoded=True) if _ADDRESS.fullmatch(value) else URL()
        is_upstream = origin(url) == origin(upstream)
        host = url.raw_host or ""
    except ValueError:
        return None
    if not _HOST.fullmatch(host) or not (url.scheme == "https" or is_upstream):
        return None
    return Url(value, is_own=is_upstream or _OWN_HOST.fullmatch(host) is not None)


def _has_content(data_uri: str) -> bool:
    try:
        return bool(decoded_data_uri(data_uri)[1])
    except ValueError:
        return False


def _is_media(data_uri: str) -> bool:
    try:
        name, content = decoded_data_uri(data_uri)
    except ValueError:
        return False
    is_other = name.startswith(("image/", "video/")) and name not in _KNOWN
    return media_type(content[:HEAD]) is not None or (is_other and not is_text(content[:HEAD], name))
