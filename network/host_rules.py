"""Lists of hosts, as operators write them: names, addresses and networks, each for one port or for all.

- `hooks.example` is that host alone.
- `.hooks.example` and `*.hooks.example` are all hosts below it.
- `10.0.0.5` and `fd00::5` are addresses, `10.0.0.0/8` and `fd00::/8` networks.
- `hooks.example:8080`, `10.0.0.0/8:8080` and `[fd00::5]:8080` are for one port.

Upper and lower case are the same, and a final dot of a name is ignored. Names are not resolved here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final

from network.addresses import parse_address

_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"(?:{_LABEL}\.)*(?!(?:[0-9]+|0x[0-9a-f]*)$){_LABEL}")
"""The last label is not a number: resolvers read `127.1` and `0x7f000001` as addresses."""

_BRACKETS: Final = re.compile(r"\[([^\]]*:[^\]]*)\](?::(.*))?")


@dataclass(frozen=True, slots=True)
class HostRule:
    """`host` is a name, a name with a leading dot for all its subdomains, or a network. `port` None means any port."""

    host: str | IPv4Network | IPv6Network
    port: int | None = None

    def matches(self, host: str, port: int) -> bool:
        if self.port not in {None, port}:
            return False
        if isinstance(self.host, str):
            return host.endswith(self.host) if self.host.startswith(".") else host == self.host
        address = parse_address(host)
        return address is not None and address in self.host


@dataclass(frozen=True, slots=True)
class HostRules:
    rules: tuple[HostRule, ...] = ()

    def match(self, host: str, port: int) -> bool:
        """Whether a rule matches the host, a name or an address."""
        host = host.lower().removesuffix(".")
        return any(rule.matches(host, port) for rule in self.rules)

    def may_match(self, host: str, port: int) -> bool:
        """Whether a rule matches the host, or may match an address that the name resolves to."""
        may_be_in_a_network = is_name(host) and any(
            not isinstance(rule.host, str) and rule.port in {None, port} for rule in self.rules
        )
        return may_be_in_a_network or self.match(host, port)


NO_HOSTS: Final = HostRules()


def entries(text: str) -> Iterator[str]:
    """The entries of a list separated by commas or spaces."""
    return filter(None, re.split(r"[,\s]+", text))


def host_rules(text: str) -> HostRules:
    """Parse a list of hosts. Raises ValueError with the requirement, as in "must list …"."""
    rules: list[HostRule] = []
    for number, entry in enumerate(entries(text), 1):
        try:
            rules.append(host_rule(entry))
        except ValueError:
            raise ValueError(
                "must list hosts such as hooks.internal, .internal.example, 10.0.0.5:8080 or 10.0.0.0/8; "
                f"entry {number} is none"
            ) from None
    return HostRules(tuple(rules))


def host_rule(entry: str) -> HostRule:
    """Parse one entry. Raises ValueError if it is malformed."""
    entry = entry.lower()
    if brackets := _BRACKETS.fullmatch(entry):
        host, port = brackets.groups()
    elif entry.count(":") == 1:
        host, port = entry.split(":")
    else:
        host, port = entry, None
    if port is not None and not (re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) < 65536):
        raise ValueError("a port must be a number from 1 to 65535")
    return HostRule(_network(host) or _name(host), None if port is None else int(port))


def is_name(host: str) -> bool:
    """Whether a host is a name and not an address in any notation."""
    return _NAME.fullmatch(host.lower().removesuffix(".")) is not None


def is_host(host: str) -> bool:
    """Whether it is a name, or an address in the usual notation."""
    return is_name(host) or parse_address(host) is not None


def _name(host: str) -> str:
    host = host.removesuffix(".")
    host = host[1:] if host.startswith("*.") else host
    if not is_name(host.removeprefix(".")):
        raise ValueError("a host must be a name, an address or a network")
    return host


def _network(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(parse_address(text) or text)
    except ValueError:
        return None
