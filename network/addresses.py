"""Which hosts are out in the open: not here, not on the network that this service stands in.

Whoever may name a URL must not reach what only we can reach: cloud metadata (169.254.169.254), databases beside
us, ourselves. An address in any notation that a resolver takes for one is read as that address; a name that means
a private network by itself (RFC 6761, RFC 6762, RFC 8375) is one. What other names resolve to is asked where a
connection is made, of every address (`files/hosts.py`).
"""

import re
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from urllib.parse import urlsplit

_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+[a-z0-9-]{2,63}")
_PRIVATE_NAMES = re.compile(
    r"(?:^|\.)(?:localhost|localdomain|local|internal|intranet|private|corp|home|lan|home\.arpa)$"
)
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
_TRANSLATED = IPv6Network("64:ff9b::/96")  # RFC 6052: the last 32 bits are an IPv4 address


def public_host(url: str) -> str | None:
    """The host that this URL names, in lower case, if it is one that anybody could reach; else None."""
    if "\\" in url:  # whether it ends the host is read in two ways
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port  # reading the port checks it
    except ValueError:
        return None
    return host if host and port != 0 and is_public_host(host) else None


def is_public_host(host: str) -> bool:
    """Whether a host, a name or an address in any notation, may be public. Names are not resolved."""
    host = host.lower().removesuffix(".")
    if ":" in host:
        return is_public_address(host)
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        try:  # what the C library takes for an address: 127.1, 0x7f000001, 2130706433, 0177.0.0.1
            return is_public_address(socket.inet_ntoa(socket.inet_aton(host)))
        except (OSError, UnicodeError):
            return False
    return bool(_NAME.fullmatch(host)) and not _PRIVATE_NAMES.search(host)


def is_public_address(address: str) -> bool:
    """Whether an IP address is one of the open internet, and so is any that is wrapped in it."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return _is_public(found)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and (wrapped := _wrapped(address)):
        return all(_is_public(each) for each in wrapped)
    if isinstance(address, IPv6Address) and address.is_site_local:  # fec0::/10, which Python calls global
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _wrapped(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that a packet to this one may end up at."""
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _TRANSLATED:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def network_of(address: str) -> str:
    """The network that stands for one peer: an IPv4 address, or the 64 bits of an IPv6 address that a host is given."""
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, IPv4Address):
        return address
    return str(parsed.ipv4_mapped or IPv6Network((parsed, 64), strict=False))
