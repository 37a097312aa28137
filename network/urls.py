"""Encodes URLs as people write them into valid ones (RFC 3986).

A valid URL stays the same, byte for byte. In any other, surrounding spaces are removed, invalid characters in the path,
query and fragment are percent-encoded, and an international host name gets its ASCII form. A percent sign without two
hexadecimal digits after it is encoded too. A backslash is refused, since some parsers read it as a slash.
"""

import re
import unicodedata
from typing import Final
from urllib.parse import quote

from yarl import URL

_VISIBLE: Final = re.compile(r"[!-~]*")
_SAFE: Final = "!$&'()*+,;=:@/?%"
"""Characters allowed in a path, query or fragment, beside letters, digits and `-._~`."""
_PERCENT: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_AUTHORITY: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*)(.*)", re.DOTALL)
_PORT: Final = re.compile(r":[0-9]*$")
_JOINERS: Final = "\u200c\u200d"
"""Format characters that are part of words and emoji."""


def encoded_url(url: str) -> str:
    """The URL in a form that can be sent. Raises ValueError that names the first forbidden character."""
    url = url.strip()
    for character in url:
        is_control = unicodedata.category(character) in {"Cc", "Cf", "Cs", "Zl", "Zp"}
        if character == "\\" or (is_control and character not in _JOINERS):
            raise ValueError(f"must not contain {_named(character)}")
    parts = _AUTHORITY.fullmatch(url)
    if parts is None:
        return _encoded(url)
    scheme, authority, rest = parts.groups()
    before, mark, fragment = rest.partition("#")
    return scheme + _ascii_authority(authority) + _encoded(before) + mark + _encoded(fragment)


def origin(url: URL) -> tuple[str, str, int | None]:
    """Scheme, host and port."""
    return url.scheme, (url.raw_host or "").lower(), url.port


def _encoded(text: str) -> str:
    return quote(_PERCENT.sub("%25", text), safe=_SAFE)


def _ascii_authority(authority: str) -> str:
    user, at, host = authority.rpartition("@")
    port = _PORT.search(host)
    name = host[: port.start()] if port else host
    wrong = next((each for each in user + name if each.isspace()), None)
    if wrong is not None:
        raise ValueError(f"must not contain {_named(wrong)} in its host")
    if not _VISIBLE.fullmatch(name):
        try:
            name = URL.build(scheme="https", host=name).raw_host or ""
        except ValueError:
            raise ValueError(f"must name a host, and {name[:100]} is none") from None
    return _encoded(user).replace("@", "%40") + at + name + (port[0] if port else "")


def _named(character: str) -> str:
    name = "a space" if character == " " else unicodedata.name(character, "a control character")
    return f"U+{ord(character):04X} ({name})"
