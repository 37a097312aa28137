"""Separates outputs that are pictures or films from text that the model made instead.

All models make pictures or films, but some answer with text instead, mostly to refuse. Such a prediction
succeeds at Replicate. An output counts only if it is an address from which a picture or film can be fetched,
or a `data:` URI that contains one.
"""

import re
from dataclasses import replace
from typing import Final

from yarl import URL

from catalog.references import decoded_data_uri
from media.formats import BY_EXTENSION, HEAD, is_text, media_type
from network.urls import origin
from providers import Output, Prediction, Text, Url
from providers.replicate.errors import cause_of
from providers.replicate.redaction import Redaction

_ADDRESS: Final = re.compile(r"https?://\S+", re.IGNORECASE)
_HOST: Final = re.compile(r"(?=.*\w)[\w.:-]+")
_LARGEST_ERROR: Final = 2_000
"""The most characters that are kept of a text that replaces a picture."""

_KNOWN: Final = {"image/jpg", *(each.name for each in BY_EXTENSION.values())}
"""Types that are recognized by content. Content that claims one of them must be recognized as one."""


def with_media_checked(prediction: Prediction, *, upstream: URL, redact: Redaction) -> Prediction:
    """The prediction, with every output that is no picture or film turned into a `Text`. Their text becomes
    its `error` if it has none. Plain HTTP addresses are accepted only from the `upstream`, which may be a
    simulator."""
    outputs = tuple(_checked(each, upstream) for each in prediction.outputs)
    checked = replace(prediction, outputs=outputs)
    # Redacted as a whole: a credential may be spread over several pieces.
    said = " ".join(redact("".join(each.value for each in outputs if isinstance(each, Text))).split())
    if prediction.error or not said:
        return checked
    said = said[:_LARGEST_ERROR]
    # It succeeded and may be billed, so it is not tried again.
    return replace(checked, error=said, cause="content" if cause_of(said) == "content" else "model")


def _checked(output: Output, upstream: URL) -> Output:
    if not isinstance(output, Url):
        return output
    value = output.value
    counts = _is_media(value) if value[:5].lower() == "data:" else _is_address(value, upstream)
    return output if counts else Text(value)


def _is_address(value: str, upstream: URL) -> bool:
    try:
        url = URL(value, encoded=True) if _ADDRESS.fullmatch(value) else URL()
        is_ours = origin(url) == origin(upstream)
        return bool(_HOST.fullmatch(url.raw_host or "")) and (url.scheme == "https" or is_ours)
    except ValueError:
        return False


def _is_media(data_uri: str) -> bool:
    try:
        name, content = decoded_data_uri(data_uri)
    except ValueError:
        return False
    is_other = name.startswith(("image/", "video/")) and name not in _KNOWN
    return media_type(content[:HEAD]) is not None or (is_other and not is_text(content[:HEAD], name))
