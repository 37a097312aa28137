"""Output hosts over real connections: loopback takes the part of the upstream and of hosts that must not be reached."""

import asyncio
import gzip
import socket

import pytest
from aiohttp.abc import AbstractResolver
from yarl import URL

from files.hosts import OutputHosts, OutputUnavailable, TemporarilyUnavailable
from network.public_http import PublicOnlyResolver
from tests.support.output_hosts import PNG, host, redirect, reply, then_silence
from tests.support.wiring import on_a_loop

UPSTREAM = "https://api.replicate.com/v1"


class Names(AbstractResolver):
    """A fake resolver of the names in `known`, which records each lookup."""

    def __init__(self, **known: list[str]) -> None:
        self._known = known
        self.asked: list[str] = []

    async def resolve(self, name, port=0, family=socket.AF_INET):
        self.asked.append(name)
        found = self._known.get(name.partition(".")[0])
        if found is None:
            raise OSError(socket.EAI_NONAME, "unknown")
        return [
            {"hostname": name, "host": each, "port": port, "family": family, "proto": 0, "flags": 0}
            for each in found
        ]

    async def close(self):
        pass


async def fetched(
    url: str, *, upstream: str = UPSTREAM, names: Names | None = None, stall: float = 10
) -> bytes:
    """Download the URL. Only names that `names` knows resolve."""
    hosts = OutputHosts(upstream, stall=stall, resolver=names or Names())
    try:
        async with hosts.get(url) as answer:
            return b"".join([chunk async for chunk in answer.chunks])
    finally:
        await hosts.aclose()


NOWHERE = [
    "http://replicate.delivery/a.png",
    "ftp://replicate.delivery/a.png",
    "file:///etc/passwd",
    "https://replicate.delivery:8443/a.png",
    "https://replicate.delivery:80/a.png",
    "https://replicate.delivery:0/a.png",
    "https://replicate.delivery./a.png",
    "https://replicate.delivery.evil.example/a.png",
    "https://evilreplicate.delivery/a.png",
    "https://replicate.delivery@evil.example/a.png",
    "https://replicate.delivery:443@evil.example/a.png",
    "https://replicate.delivery%40evil.example/a.png",
    "https://replicate.delivery\\@evil.example/a.png",
    "https://replicate.delivery%00.evil.example/a.png",
    "https://evil.example/replicate.delivery/a.png",
    "https://evil.example/?https://replicate.delivery/a.png",
    "https://evil.example#.replicate.delivery/a.png",
    "https://evil.example%2f.replicate.delivery/a.png",
    "https://evil.example\\.replicate.delivery/a.png",
    "https://user:password@replicate.delivery/a.png",
    "https://user@replicate.delivery/a.png",
    "https://127.0.0.1/a.png",
    "https://2130706433/a.png",
    "https://[::1]/a.png",
    "https://169.254.169.254/latest/meta-data/",
    "http://169.254.169.254/latest/meta-data/",
    "https://localhost/a.png",
    "http://api.replicate.com/a.png",
    "https://api.replicate.com:8443/a.png",
    "https://user@api.replicate.com/a.png",
    "https://\uff52eplicate.delivery/a.png",
    "https://replicate.delivery/a\r\nX-Header: 1",
    "https://replicate.delivery/a b.png",
    "https://[replicate.delivery/a.png",
    "https://replicate.delivery:port/a.png",
    "https:replicate.delivery/a.png",
    "https:///a.png",
    "//replicate.delivery/a.png",
    "/a.png",
    "data:image/svg+xml,<svg/>",
    "javascript:alert(1)",
    "",
    "https://replicate.delivery/" + "a" * 9000,
]


@pytest.mark.parametrize("url", NOWHERE, ids=lambda url: url[:60])
@on_a_loop
async def test_no_other_host_is_looked_up_or_reached(url):
    names = Names()
    with pytest.raises(OutputUnavailable) as caught:
        await fetched(url, names=names)

    assert OutputUnavailable is type(caught.value)
    assert [] == names.asked


@pytest.mark.parametrize(
    "url",
    [
        "https://replicate.delivery/a.png",
        "https://x.replicate.delivery/a.png",
        "https://a.b-c.replicate.delivery:443/a.png",
        "HTTPS://X.Replicate.Delivery/a.png",
        "https://x.replicate.delivery/a%2Fb.png?signature=a%20b#part",
    ],
)
@on_a_loop
async def test_delivery_hosts_are_looked_up(url):
    names = Names()
    with pytest.raises(TemporarilyUnavailable, match="its host was not found"):
        await fetched(url, names=names)

    assert [URL(url).host] == [name.lower() for name in names.asked]


@pytest.mark.parametrize(
    "addresses",
    [
        ["127.0.0.1"],
        ["10.0.0.1"],
        ["172.16.3.4"],
        ["192.168.1.1"],
        ["169.254.169.254"],
        ["100.64.0.1"],
        ["0.0.0.0"],
        ["::1"],
        ["fe80::1"],
        ["fd00:ec2::254"],
        ["::ffff:127.0.0.1"],
        ["64:ff9b::7f00:1"],
        ["8.8.8.8", "127.0.0.1"],
    ],
    ids=",".join,
)
@on_a_loop
async def test_a_delivery_host_with_a_private_address_is_refused_without_retry(addresses):
    names = Names(x=addresses)
    with pytest.raises(OutputUnavailable, match="its host has an address on a private network") as caught:
        await fetched("https://x.replicate.delivery/a.png", names=names)

    assert not isinstance(caught.value, TemporarilyUnavailable)
    assert ["x.replicate.delivery"] == names.asked, (
        "resolved once: the checked address is the one to connect to"
    )


@on_a_loop
async def test_public_addresses_are_resolved_unchanged():
    names = Names(x=["8.8.8.8", "2606:4700::1111"])
    found = await PublicOnlyResolver(names).resolve("x.replicate.delivery", 443)

    assert ["8.8.8.8", "2606:4700::1111"] == [each["host"] for each in found]


@on_a_loop
async def test_a_private_upstream_is_reached_only_at_its_own_origin():
    async with host({"/a.png": reply(PNG)}) as upstream, host({"/a.png": reply(PNG)}) as other:
        assert await fetched(upstream.url + "/a.png", upstream=upstream.url + "/v1") == PNG
        for url in (
            other.url + "/a.png",
            upstream.url.replace("127.0.0.1", "localhost") + "/a.png",
            upstream.url.replace("http:", "https:") + "/a.png",
            upstream.url.replace("//", "//user:password@") + "/a.png",
        ):
            with pytest.raises(OutputUnavailable, match="not one that outputs"):
                await fetched(url, upstream=upstream.url)

    assert (1, 0) == (len(upstream.seen), len(other.seen))


@on_a_loop
async def test_a_download_sends_only_the_necessary_headers(tmp_path, monkeypatch):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login me password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    cookie = "Set-Cookie: session=1; Path=/\r\n"
    async with host(
        {
            "/a.png": reply(b"", status="302 Found", headers=cookie + "Location: /b.png\r\n"),
            "/b.png": reply(PNG),
        }
    ) as upstream:
        by_name = upstream.url.replace("127.0.0.1", "localhost")  # cookies are never sent to an IP address
        await fetched(by_name + "/a.png", upstream=by_name)

    sent = [
        sorted(line.partition(":")[0] for line in seen.split("\r\n")[1:] if line) for seen in upstream.seen
    ]
    assert [["Accept", "Accept-Encoding", "Host", "User-Agent"]] * 2 == sent
    assert all("Accept-Encoding: identity\r\n" in seen for seen in upstream.seen)


@on_a_loop
async def test_the_encoding_of_a_url_is_sent_unchanged():
    target = "/a%2Fb%20c%7e%41.png?signature=a%2Bb%3D%7E&x=(1)&y=%c3%bc"
    async with host({target: reply(PNG)}) as upstream:
        assert await fetched(upstream.url + target, upstream=upstream.url) == PNG


@pytest.mark.slow
@pytest.mark.parametrize(
    "status", ["301 Moved", "302 Found", "303 See", "307 TemporaryFile", "308 Permanent"]
)
@on_a_loop
async def test_at_most_three_redirects_are_followed(status):
    answers = {f"/{number}": redirect(f"/{number + 1}", status=status) for number in range(4)}
    async with host({**answers, "/4": reply(PNG)}) as upstream:
        assert await fetched(upstream.url + "/1", upstream=upstream.url) == PNG
        with pytest.raises(OutputUnavailable, match="it was redirected more than 3 times"):
            await fetched(upstream.url + "/0", upstream=upstream.url)

    assert ["/1", "/2", "/3", "/4", "/0", "/1", "/2", "/3"] == [seen.split(" ")[1] for seen in upstream.seen]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "https://evil.example/a.png",
        "//evil.example/a.png",
        "http://replicate.delivery/a.png",
        "https://replicate.delivery@evil.example/a.png",
        "file:///etc/passwd",
        "http://localhost:1/",
        "http://[::1",
        "https://x.replicate.delivery/\xff",
    ],
)
@on_a_loop
async def test_a_redirect_to_any_other_host_is_not_followed(location):
    names = Names()
    async with host({"/a": redirect(location)}) as upstream:
        with pytest.raises(OutputUnavailable) as caught:
            await fetched(upstream.url + "/a", upstream=upstream.url, names=names)

    assert OutputUnavailable is type(caught.value)
    assert [] == names.asked
    assert 1 == len(upstream.seen)


@on_a_loop
async def test_a_redirect_to_a_delivery_host_with_a_private_address_is_refused():
    async with host({"/a": redirect("https://x.replicate.delivery/a.png")}) as upstream:
        with pytest.raises(OutputUnavailable, match="private network"):
            await fetched(upstream.url + "/a", upstream=upstream.url, names=Names(x=["127.0.0.1"]))


@pytest.mark.parametrize("status", [400, 401, 403, 410, 451])
@on_a_loop
async def test_a_final_status_is_not_temporary(status):
    async with host({"/a": reply(b"no", status=f"{status} No")}) as upstream:
        with pytest.raises(OutputUnavailable, match=f"its host answered {status}") as caught:
            await fetched(upstream.url + "/a", upstream=upstream.url)
    assert not isinstance(caught.value, TemporarilyUnavailable)
    assert (status == 410) == caught.value.missing


@pytest.mark.parametrize("status", [404, 408, 425, 429, 500, 502, 503, 504])
@on_a_loop
async def test_a_status_that_may_pass_is_temporary(status):
    async with host({"/a": reply(b"later", status=f"{status} Later")}) as upstream:
        with pytest.raises(TemporarilyUnavailable, match=f"its host answered {status}") as caught:
            await fetched(upstream.url + "/a", upstream=upstream.url)
    assert (status == 404) == caught.value.missing


@pytest.mark.parametrize(
    "status", ["201 Created", "204 No Content", "206 Partial Content", "304 Not Modified"]
)
@on_a_loop
async def test_a_2xx_or_304_status_other_than_200_is_refused(status):
    async with host({"/a": reply(b"", status=status)}) as upstream:
        with pytest.raises(OutputUnavailable, match=f"its host answered {status[:3]}"):
            await fetched(upstream.url + "/a", upstream=upstream.url)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate, gzip", "zstd"])
@pytest.mark.parametrize(("announced", "missing"), [("image/png", False), ("text/html; charset=utf-8", True)])
@on_a_loop
async def test_a_compressed_response_is_refused_and_counts_as_missing_if_it_is_html(
    encoding, announced, missing
):
    headers = f"Content-Encoding: {encoding}\r\nContent-Type: {announced}\r\n"
    packed = reply(gzip.compress(bytes(10**6)), headers=headers)
    async with host({"/a": packed}) as upstream:
        with pytest.raises(OutputUnavailable, match="it came compressed") as refused:
            await fetched(upstream.url + "/a", upstream=upstream.url)

    assert missing is refused.value.missing


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    "answer",
    [
        reply(PNG, length=len(PNG) + 1),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
        HEAD + b"Content-Length: many\r\n\r\n",
        HEAD + b"Content-Len",
        b"",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        HEAD + b"X: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
    ids=[
        "truncated",
        "chunk missing",
        "chunk garbled",
        "length garbled",
        "cut head",
        "nothing",
        "ssh",
        "long",
    ],
)
@on_a_loop
async def test_a_truncated_or_malformed_response_is_temporary(answer):
    async with host({"/a": answer}) as upstream:
        with pytest.raises(TemporarilyUnavailable):
            await fetched(upstream.url + "/a", upstream=upstream.url)


@pytest.mark.parametrize("first", [b"", HEAD, reply(PNG, length=1000)], ids=["head", "half a head", "body"])
@on_a_loop
async def test_a_silent_host_is_a_stalled_download(first):
    async with host({"/a": then_silence(first)}) as upstream:
        with pytest.raises(TemporarilyUnavailable, match="the download stalled"):
            await fetched(upstream.url + "/a", upstream=upstream.url, stall=0.05)


@on_a_loop
async def test_an_unreachable_host_is_temporary():
    async with host({}) as upstream:
        pass
    with pytest.raises(TemporarilyUnavailable, match="its host could not be reached"):
        await fetched(upstream.url + "/a", upstream=upstream.url)


@on_a_loop
async def test_close_leaves_no_task():
    before = asyncio.all_tasks()
    async with host({"/a": reply(PNG)}) as upstream:
        await fetched(upstream.url + "/a", upstream=upstream.url)
    assert before == asyncio.all_tasks()
