"""The HTTP proxy that requests to Replicate go through, as `HTTPS_PROXY` and `NO_PROXY` say.

Only https URLs go through the proxy, by CONNECT: it sees a host and a port, and no content. TLS and its
certificates are checked end to end. The user name and the password of the proxy are kept apart from its URL, so that no
error and no log shows them.
"""

import re
from base64 import b64encode
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

from network.host_rules import NO_HOSTS, HostRule, HostRules, entries, host_rule, is_host

_FORM: Final = (
    "must be http://host:port or http://user:password@host:port, with special characters of the password "
    "percent-encoded"
)


@dataclass(frozen=True, slots=True)
class Proxies:
    """Which URLs go through `proxy`, if there is one: all that are https, but those of the hosts in `exempt`.
    `unread` are the numbers of the entries of `NO_PROXY` that cannot be read, from 1."""

    proxy: httpx.Proxy | None = field(default=None, repr=False)
    exempt: HostRules = NO_HOSTS
    unread: tuple[int, ...] = ()

    def for_url(self, url: str) -> httpx.Proxy | None:
        """The proxy that the URL goes through."""
        parts = urlsplit(url)
        is_direct = parts.scheme != "https" or self.exempt.match(parts.hostname or "", parts.port or 443)
        return None if is_direct else self.proxy


DIRECT: Final = Proxies()
"""No proxy for any URL."""


def read_proxies(https_proxy: str, no_proxy: str) -> Proxies:
    """The proxies that the two variables describe. Raises ValueError as `read_proxy` does.

    In `no_proxy` a name stands for the hosts below it as well, with a dot before it or not, and `*` for all. An entry
    that cannot be read matches nothing: the variable is shared with other programs, which may read more.
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


def read_proxy(text: str) -> httpx.Proxy:
    """The proxy at a URL, which without a scheme is an http one. Its headers have the credentials. Raises ValueError
    with what the URL must be, as in "must be …"."""
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
        return httpx.Proxy(url)
    login = b":".join(unquote_to_bytes(each or "") for each in (parts.username, parts.password))
    return httpx.Proxy(url, headers={"Proxy-Authorization": f"Basic {b64encode(login).decode()}"})
