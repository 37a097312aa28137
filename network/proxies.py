"""The HTTP proxy for requests to Replicate, from `HTTPS_PROXY` and `NO_PROXY`.

Only https URLs use the proxy, by CONNECT: it sees the host and the port, and no content. TLS is end to end. The user
name and password of the proxy are stored apart from its URL, so that errors and logs do not show them.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlsplit

from network.host_rules import NO_HOSTS, HostRule, HostRules, entries, host_rule, is_host

_FORM: Final = (
    "must be http://host:port or http://user:password@host:port, with special characters of the password "
    "percent-encoded"
)


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy: its URL without credentials, and the headers that have them."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments of a request of aiohttp that goes through this proxy."""
        return {"proxy": self.url, "proxy_headers": self.headers}


@dataclass(frozen=True, slots=True)
class Proxies:
    """https URLs use `proxy`, if there is one, except for the hosts in `exempt`. `unread` lists the entries of
    `NO_PROXY` that cannot be parsed, by number from 1."""

    proxy: Proxy | None = field(default=None, repr=False)
    exempt: HostRules = NO_HOSTS
    unread: tuple[int, ...] = ()

    def for_url(self, url: str) -> Proxy | None:
        """The proxy for this URL, or None."""
        if self.proxy is None:
            return None
        parts = urlsplit(url)
        is_direct = parts.scheme != "https" or self.exempt.match(parts.hostname or "", parts.port or 443)
        return None if is_direct else self.proxy


DIRECT: Final = Proxies()
"""No proxy for any URL."""


def read_proxies(https_proxy: str, no_proxy: str) -> Proxies:
    """Parse the two variables. Raises ValueError as `read_proxy` does.

    In `no_proxy`, a name with or without a leading dot also matches its subdomains, and `*` matches all hosts. An entry
    that cannot be parsed matches nothing: other programs share the variable and may accept more.
    """
    exempt: list[HostRule] = []
    unread: list[int] = []
    for number, entry in enumerate(entries(no_proxy), 1):
        if entry == "*":
            return DIRECT
        try:
            rule = host_rule(entry)
        except ValueError:
            unread.append(number)
            continue
        exempt.append(rule)
        if isinstance(rule.host, str):
            name = rule.host.removeprefix(".")
            exempt += [HostRule(name, rule.port), HostRule(f".{name}", rule.port)]
    return Proxies(read_proxy(https_proxy) if https_proxy else None, HostRules(tuple(exempt)), tuple(unread))


def read_proxy(text: str) -> Proxy:
    """Parse the URL of a proxy; the default scheme is http. Its credentials go into the headers. Raises ValueError with
    the requirement, as in "must be …"."""
    if not re.fullmatch("[!-~]+", text):
        raise ValueError(_FORM)
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(_FORM) from None
    if parts.scheme.startswith("socks"):
        raise ValueError("must begin with http:// or https://; SOCKS proxies are not supported")
    is_proxy = parts.scheme in {"http", "https"} and is_host(host) and port != 0
    if not is_proxy or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError(_FORM)
    at = f"[{host}]" if ":" in host else host
    url = f"{parts.scheme}://{at}" + (f":{port}" if port else "")
    if not (parts.username or parts.password):
        return Proxy(url)
    login = b":".join(unquote_to_bytes(each or "") for each in (parts.username, parts.password))
    return Proxy(url, {"Proxy-Authorization": f"Basic {b64encode(login).decode()}"})
