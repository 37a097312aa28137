"""Which hosts are out in the open, in every notation somebody has tried."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.addresses import is_public_address, is_public_host, public_host

PRIVATE_ADDRESSES = [
    "127.0.0.1",
    "127.255.255.255",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "169.254.169.254",
    "192.0.2.1",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "::ffff:7f00:1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2001:0:7f00:1::f7f7:f7f7",
    "2001:db8::1",
    "fc00::1",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "ff02::1",
    "100::1",
    "",
    "localhost",
    "127.1",
    "0x7f.0.0.1",
    "1.2.3.4.5",
    "[::1]",
]

PUBLIC_ADDRESSES = [
    "1.1.1.1",
    "8.8.8.8",
    "172.15.255.255",
    "172.32.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "169.253.255.255",
    "2606:4700::1111",
    "2a00:1450:4001::1",
    "::ffff:8.8.8.8",
    "64:ff9b::8.8.8.8",
    "2002:808:808::1",
]


@pytest.mark.parametrize("address", PRIVATE_ADDRESSES)
def test_a_private_address_is_not_public_nor_is_what_is_none(address):
    assert not is_public_address(address)


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_a_public_address_is(address):
    assert is_public_address(address)
    assert is_public_host(address)


PRIVATE_HOSTS = [
    "",
    ".",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "api.localhost",
    "redis",
    "printer.local",
    "db.internal",
    "metadata.google.internal",
    "METADATA.GOOGLE.INTERNAL.",
    "nas.home.arpa",
    "home.arpa",
    "wiki.corp",
    "router.lan",
    "nas.home",
    "a.localdomain",
    "127.0.0.1",
    "127.0.0.1.",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0X7F000001",
    "0x7f.1",
    "0x7f.0x0.0x0.0x1",
    "017700000001",
    "0177.0.0.1",
    "0177.1",
    "0",
    "0x",
    "00000000.0.0.0",
    "1.2.3.4.5",
    "256.256.256.256",
    "99999999999999",
    "a.1",
    "::1",
    "::ffff:127.0.0.1",
    "fe80::1%25eth0",
    "\uff11\uff12\uff17.0.0.1",
    "\u2460\u2461\u2466.0.0.1",
    "exa mple.com",
    "example.com\0.evil",
    "example.com/",
    "-.com",
    "a..com",
    ".com",
    "a" * 64 + ".com",
    "example.com:80",
    "user@example.com",
]


@pytest.mark.parametrize("host", PRIVATE_HOSTS)
def test_a_host_that_is_private_or_no_host_is_not_public(host):
    assert not is_public_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "example.com",
        "EXAMPLE.com.",
        "a.b.c.example.com",
        "my_bucket.s3.amazonaws.com",
        "xn--bcher-kva.example",
        "localhost.example.com",
        "internal.example.com",
        "mylocal.com",
        "notlocalhost.com",
        "0x7f000001.com",
        "1.com",
        "134744072",
        "0x8.0x8.0x8.0x8",
    ],
)
def test_a_host_on_the_internet_is_public(host):
    assert is_public_host(host)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["{0}", "{0:#x}", "0{0:o}", "0x{0:08X}"]))
def test_a_number_is_the_address_it_stands_for(number, notation):
    expected = is_public_address(str(ipaddress.IPv4Address(number)))
    assert expected == is_public_host(notation.format(number))


@given(st.integers(0, 2**32 - 1), st.sampled_from(["::ffff:{}", "64:ff9b::{}"]))
def test_an_address_within_an_address_is_what_counts(number, notation):
    inner = str(ipaddress.IPv4Address(number))
    assert is_public_address(inner) == is_public_address(notation.format(inner))


@given(st.text(max_size=60))
def test_any_text_is_classified_without_an_error(text):
    for judge in (is_public_address, is_public_host, public_host):
        judge(text)
    public_host(f"https://{text}/")


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com/a.png", "example.com"),
        ("https://EXAMPLE.com:8443/a.png?b#c", "example.com"),
        ("https://me:word@example.com/", "example.com"),
        ("https://[2606:4700::1111]/", "2606:4700::1111"),
        ("https://example.com@127.0.0.1/", None),
        ("https://127.0.0.1#@example.com/", None),
        ("https://127.0.0.1?@example.com/", None),
        ("https://127.0.0.1\\@example.com/", None),
        ("https://example.com\\@127.0.0.1/", None),
        ("https://[::1]/", None),
        ("https://[::ffff:127.0.0.1]/", None),
        ("https://[::1/", None),
        ("https://localhost:5000/", None),
        ("https://example.com:0/", None),
        ("https://example.com:99999/", None),
        ("https://example.com:port/", None),
        ("https:///a.png", None),
        ("https://", None),
        ("example.com/a.png", None),
        ("data:image/png;base64,AAAA", None),
        ("", None),
    ],
)
def test_the_host_of_a_url_is_given_only_if_it_is_public(url, host):
    assert host == public_host(url)
