"""Distinguishes public hosts from private ones: this machine and the networks around it.

A caller who names a URL must not reach hosts that only this service can reach, such as cloud metadata
(169.254.169.254) and databases. An address counts in every notation that a resolver accepts. Names reserved for private
networks (RFC 6761, RFC 6762, RFC 8375) are private. Other names are checked by their addresses when a connection is
made (`network/public_http.py`).
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
    """The host of a URL, in lower case, if it is public; else None."""
    if "\\" in url:  # parsers disagree on whether it ends the host
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
        try:  # notations that the C library reads as an address: 127.1, 0x7f000001, 2130706433, 0177.0.0.1
            return is_public_address(socket.inet_ntoa(socket.inet_aton(host)))
        except (OSError, UnicodeError):
            return False
    return bool(_NAME.fullmatch(host)) and not _PRIVATE_NAMES.search(host)


def is_public_address(address: str) -> bool:
    """Whether an IP address is public, and so are all addresses embedded in it."""
    found = parse_address(address)
    return found is not None and _is_public(found)


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """The address without its zone, or None if it is none. An IPv4 address mapped to IPv6 is returned as IPv4."""
    try:
        found = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and (embedded := _embedded(address)):
        return all(_is_public(each) for each in embedded)
    if isinstance(address, IPv6Address) and address.is_site_local:  # fec0::/10, which Python calls global
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _embedded(address: IPv6Address) -> list[IPv4Address]:
    """The IPv4 addresses that a packet to an IPv6 address may be translated to."""
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _TRANSLATED:
        found.append(IPv4Address(int(address) & 0xFFFFFFFF))
    return [each for each in found if each is not None]


def network_of(address: str) -> str:
    """The network that counts as one client: an IPv4 address, or the /64 network of an IPv6 address."""
    parsed = parse_address(address)
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((parsed, 64), strict=False))
    return str(parsed or address)
