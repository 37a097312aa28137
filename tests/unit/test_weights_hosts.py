"""Weights over real connections: which hosts get the token, and downloads that are cut short."""

from contextlib import asynccontextmanager

import pytest
from yarl import URL

from datasets.refusals import WeightsBroken
from files.download import RetryPolicy
from files.hosts import OutputHosts
from files.weights import WeightsStore, WeightsUnavailable
from files.weights_directory import WeightsDirectory
from harness.certificates import certified
from network.proxies import DIRECT, read_proxies
from tests.support.connect_proxy import proxying
from tests.support.outbox_wiring import Names
from tests.support.output_hosts import Host, content, host, redirect, reply
from tests.support.wiring import on_a_loop

TRN = "trn_" + "0123456789abcdef" * 2
TOKEN = "r8_of_the_caller"
WHOLE = b"weights " * 50_000
DELIVERY = "https://x.replicate.delivery"
REFUSED = reply(b"no", status="403 Forbidden")
WITH_TOKEN = f"\r\nAuthorization: Bearer {TOKEN}\r\n"


def check(path):
    if path.read_bytes() != WHOLE:
        raise WeightsBroken("its end is missing")


@asynccontextmanager
async def opened(directory, upstream, *, proxies=DIRECT, names=None, any_public=True):
    store = WeightsStore(
        storage=WeightsDirectory(directory),
        spool=directory,
        source=OutputHosts(upstream, any_public=any_public, resolver=names or Names(), proxies=proxies),
        check=check,
        retry_policy=RetryPolicy(max_attempts=10, first_backoff=0.001),
    )
    try:
        yield store
    finally:
        await store.aclose()


async def kept(directory, upstream, url, *, token=TOKEN, **named):
    """Keep the weights at `url`. Returns the content that is then served."""
    async with opened(directory, upstream, **named) as store:
        found = await store.keep(TRN, url, token=token)
        return content(store.open(TRN, found.name))


def needing_token(answer):
    """A server with files that need the token."""

    async def answer_request(_, writer):
        writer.write(answer if WITH_TOKEN in server.seen[-1] else REFUSED)

    server = Host(answer_request)
    return server.listening()


def tokens(server):
    """Whether each request to a server had the token. No request had other credentials."""
    assert all((WITH_TOKEN in head) == ("authorization" in head.lower()) for head in server.seen)
    return [WITH_TOKEN in head for head in server.seen]


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A TLS certificate for Replicate's hosts that the service trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "replicate.pem"))
    return certified(tmp_path / "replicate.pem", "api.replicate.com", "x.replicate.delivery")


@on_a_loop
async def test_a_file_that_needs_no_token_is_read_without_it(tmp_path):
    async with host({"/lora.tar": reply(WHOLE)}) as upstream:
        assert WHOLE == await kept(tmp_path, upstream.url, f"{upstream.url}/lora.tar")

    assert [False] == tokens(upstream)


@on_a_loop
async def test_a_file_that_needs_the_token_is_read_with_it_after_a_refusal(tmp_path):
    async with needing_token(reply(WHOLE)) as upstream:
        assert WHOLE == await kept(tmp_path, upstream.url, f"{upstream.url}/lora.tar")

    assert [False, True] == tokens(upstream)


@on_a_loop
async def test_without_a_token_a_refusal_is_tried_ten_times(tmp_path):
    async with needing_token(reply(WHOLE)) as upstream:
        with pytest.raises(WeightsUnavailable, match="its host answered 403"):
            await kept(tmp_path, upstream.url, f"{upstream.url}/lora.tar", token=None)

    assert [False] * 10 == tokens(upstream)


@pytest.mark.parametrize("url", [f"{DELIVERY}/lora.tar", "https://api.replicate.com/v1/files/1/lora.tar"])
@on_a_loop
async def test_replicates_own_hosts_get_the_token_through_the_proxy(tmp_path, certificate, url):
    async with needing_token(reply(WHOLE)) as replicate, host({}) as upstream:
        with proxying(replicate.url, certificate) as proxy:
            assert WHOLE == await kept(
                tmp_path / "kept", upstream.url, url, proxies=read_proxies(proxy.url, "")
            )

    assert ([False, True], []) == (tokens(replicate), upstream.seen)
    assert not any(TOKEN in head for head in proxy.heads)


@on_a_loop
async def test_a_redirect_on_the_same_host_keeps_the_token(tmp_path):
    async def answer(target, writer):
        moved = redirect("/moved/lora.tar") if target == "/lora.tar" else reply(WHOLE)
        writer.write(moved if WITH_TOKEN in upstream.seen[-1] else REFUSED)

    async with Host(answer).listening() as upstream:
        assert WHOLE == await kept(tmp_path, upstream.url, f"{upstream.url}/lora.tar")

    assert [False, True, True] == tokens(upstream)


@on_a_loop
async def test_a_redirect_to_another_host_does_not_take_the_token_there(tmp_path, certificate):
    moved = redirect(f"{DELIVERY}/signed/lora.tar")
    signed = host({"/signed/lora.tar": reply(WHOLE)})
    async with needing_token(moved) as upstream, signed as delivery:
        with proxying(delivery.url, certificate) as proxy:
            url, proxies = f"{upstream.url}/lora.tar", read_proxies(proxy.url, "")
            assert WHOLE == await kept(tmp_path / "kept", upstream.url, url, proxies=proxies)

    assert ([False, True], [False]) == (tokens(upstream), tokens(delivery))


@on_a_loop
async def test_a_redirect_back_does_not_take_the_token_back(tmp_path, certificate):
    async def back(_, writer):
        writer.write(redirect(url))

    async with needing_token(redirect(f"{DELIVERY}/back")) as upstream, Host(back).listening() as delivery:
        url = f"{upstream.url}/lora.tar"
        with proxying(delivery.url, certificate) as proxy:
            proxies = read_proxies(proxy.url, "")
            with pytest.raises(WeightsUnavailable, match="403"):
                await kept(tmp_path / "kept", upstream.url, url, proxies=proxies)

    assert [False, True, False] * 10 == tokens(upstream)
    assert [False] * 10 == tokens(delivery)


@pytest.mark.parametrize(
    ("url", "is_replicate"),
    [
        ("https://replicate.delivery/lora.tar", True),
        ("https://x.y.replicate.delivery/lora.tar", True),
        ("https://api.replicate.com/v1/files/1", True),
        ("https://gateway.example:8443/v1/files/1", True),
        ("https://gateway.example/v1/files/1", False),
        ("http://gateway.example:8443/v1/files/1", False),
        ("http://replicate.delivery/lora.tar", False),
        ("http://api.replicate.com/v1/files/1", False),
        ("https://replicate.delivery:8443/lora.tar", False),
        ("https://api.replicate.com:8443/v1/files/1", False),
        ("https://x.api.replicate.com/lora.tar", False),
        ("https://replicate.com/lora.tar", False),
        ("https://evilreplicate.delivery/lora.tar", False),
        ("https://replicate.delivery.evil.example/lora.tar", False),
        ("https://storage.example/lora.tar", False),
    ],
)
@on_a_loop
async def test_only_replicates_hosts_get_the_token(url, is_replicate):
    hosts = OutputHosts("https://gateway.example:8443/replicate", any_public=True)

    assert is_replicate == bool(hosts.credentials(URL(url), TOKEN))
    assert {} == hosts.credentials(URL(url), None)


@pytest.mark.parametrize("where", ["http", "private", "user", "no TLS"])
@on_a_loop
async def test_a_redirect_to_a_host_that_is_not_public_is_not_followed(tmp_path, where):
    async with host({"/lora.tar": reply(WHOLE)}) as other:
        location = {
            "http": f"{other.url}/lora.tar",
            "private": other.url.replace("http:", "https:") + "/lora.tar",
            "user": "https://user@weights.example/lora.tar",
            "no TLS": "http://replicate.delivery/lora.tar",
        }[where]
        async with needing_token(redirect(location)) as upstream:
            with pytest.raises(WeightsUnavailable, match="its URL"):
                await kept(tmp_path, upstream.url, f"{upstream.url}/lora.tar")

    assert ([False, True], []) == (tokens(upstream), other.seen)


@on_a_loop
async def test_another_public_host_is_reached_without_the_proxy_and_its_address_is_checked(
    tmp_path, certificate
):
    names = Names("10.0.0.1")
    async with needing_token(redirect("https://storage.example/lora.tar")) as upstream:
        with proxying("", certificate) as proxy:
            url, proxies = f"{upstream.url}/lora.tar", read_proxies(proxy.url, "")
            with pytest.raises(WeightsUnavailable, match="an address on a private network"):
                await kept(tmp_path / "kept", upstream.url, url, proxies=proxies, names=names)

    assert ([], ["storage.example"]) == (proxy.asked, names.asked)


@pytest.mark.parametrize("url", ["https://api.replicate.com/lora.tar", "https://storage.example/lora.tar"])
@on_a_loop
async def test_a_simulated_service_reaches_no_host_but_the_simulator(tmp_path, url):
    names = Names("10.0.0.1")
    async with host({"/lora.tar": redirect(url)}) as simulator:
        for each in (url, f"{simulator.url}/lora.tar"):
            with pytest.raises(WeightsUnavailable, match="its host is not one that outputs come from"):
                await kept(tmp_path, simulator.url, each, any_public=False, names=names)

    assert [] == names.asked


@pytest.mark.parametrize(
    "first",
    [reply(WHOLE[:-100], length=len(WHOLE)), reply(WHOLE[:-100]), reply(b"<html>", status="503 Busy"), b""],
    ids=["cut", "short", "busy", "no answer"],
)
@on_a_loop
async def test_a_download_that_is_cut_short_is_repeated(tmp_path, first):
    async def answer(_, writer):
        writer.write(first if len(upstream.seen) < 3 else reply(WHOLE))

    async with Host(answer).listening() as upstream:
        assert WHOLE == await kept(tmp_path, upstream.url, f"{upstream.url}/lora.tar")

    assert [False] * 3 == tokens(upstream)


@on_a_loop
async def test_a_broken_file_is_downloaded_ten_times(tmp_path):
    async with host({"/lora.tar": reply(WHOLE[:-100])}) as upstream:
        with pytest.raises(WeightsUnavailable, match="it is broken: its end is missing"):
            await kept(tmp_path, upstream.url, f"{upstream.url}/lora.tar")

    assert [False] * 10 == tokens(upstream)
    assert [] == list(tmp_path.iterdir())
