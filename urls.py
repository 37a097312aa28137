"""URLs as people write them, made into URLs as they are sent (RFC 3986).

A valid URL stays as it is, byte for byte. In any other, spaces around it are left out, spaces and characters beyond
ASCII in its path, query and fragment are percent-encoded, and an international host name gets its ASCII form.
"""

import re
import unicodedata
from typing import Final
from urllib.parse import quote

from yarl import URL

_VALID: Final = re.compile(r"[!-~]*")
_ASCII: Final = "".join(map(chr, range(0x21, 0x7F)))
_AUTHORITY: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*)(.*)", re.DOTALL)
_PORT: Final = re.compile(r":[0-9]*$")
_JOINERS: Final = "\u200c\u200d"
"""Format characters that belong into words and emoji."""


def encoded_url(url: str) -> str:
    """The URL as it can be sent. Raises ValueError that names the character that stands in the way."""
    url = url.strip()
    if _VALID.fullmatch(url):
        return url
    for character in url:
        if unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"} and character not in _JOINERS:
            raise ValueError(f"must not contain {_named(character)}")
    parts = _AUTHORITY.fullmatch(url)
    if parts is None:
        return quote(url, safe=_ASCII)
    scheme, authority, rest = parts.groups()
    return scheme + _ascii_authority(authority) + quote(rest, safe=_ASCII)


def origin(url: URL) -> tuple[str, str, int | None]:
    """Scheme, host and port."""
    return url.scheme, (url.raw_host or "").lower(), url.port


def _ascii_authority(authority: str) -> str:
    if _VALID.fullmatch(authority):
        return authority
    user, at, host = authority.rpartition("@")
    port = _PORT.search(host)
    name = host[: port.start()] if port else host
    wrong = next((each for each in user + name if each.isspace()), None)
    if wrong is not None:
        raise ValueError(f"must not contain {_named(wrong)} in its host")
    try:
        name = URL.build(scheme="https", host=name).raw_host or ""
    except ValueError:
        raise ValueError(f"must name a host, and {name[:100]} is none") from None
    return quote(user, safe=_ASCII) + at + name + (port[0] if port else "")


def _named(character: str) -> str:
    name = "a space" if character == " " else unicodedata.name(character, "a control character")
    return f"U+{ord(character):04X} ({name})"
