"""The proxy of HTTPS_PROXY: its settings, the requests that go through it, and those that do not."""

import base64
import logging

import pytest

from catalog.drift import AGREE, main
from files.hosts import OutputHosts, OutputUnavailable, TemporarilyUnavailable
from harness.certificates import certified
from models import declared
from network.proxies import Proxy, read_proxies, read_proxy
from providers.connections import NotSent
from providers.replicate.transport import HttpConnections
from settings import Settings, SettingsError, load
from tests.support.api_client import PICTURE
from tests.support.callers import ADMIN as ADMIN_KEY
from tests.support.callers import SERVER_TOKEN
from tests.support.connect_proxy import proxying
from tests.support.outbox_wiring import Names
from tests.support.output_hosts import PNG, host, redirect
from tests.support.output_hosts import reply as file_reply
from tests.support.wiring import ADMIN, on_a_loop, parts, reply, settings, wire

REPLICATE = "https://api.replicate.com"
DELIVERY = "https://x.replicate.delivery"
NAMES = ("api.replicate.com", "x.replicate.delivery", "localhost")
CREATED = b'{"id": "p1", "status": "starting"}'
SECRET = "s3cret:p@ss/word"
WITH_LOGIN = "http://user:s3cret%3Ap%40ss%2Fword@"
LOGIN = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A TLS certificate for Replicate's hosts that the service trusts."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "replicate.pem"))
    return certified(tmp_path / "replicate.pem", *NAMES)


# ── Settings


@pytest.mark.parametrize(
    ("text", "url", "login"),
    [
        ("http://proxy.corp:3128", "http://proxy.corp:3128", None),
        ("http://proxy.corp:3128/", "http://proxy.corp:3128", None),
        ("HTTP://Proxy.Corp:3128", "http://proxy.corp:3128", None),
        ("https://proxy.corp:8443", "https://proxy.corp:8443", None),
        ("http://proxy", "http://proxy", None),
        ("proxy.corp:3128", "http://proxy.corp:3128", None),
        ("http://10.0.0.1:3128", "http://10.0.0.1:3128", None),
        ("http://[fd00::1]:3128", "http://[fd00::1]:3128", None),
        ("http://user:password@proxy.corp:3128", "http://proxy.corp:3128", "user:password"),
        ("user:password@proxy.corp:3128", "http://proxy.corp:3128", "user:password"),
        ("http://user@proxy.corp:3128", "http://proxy.corp:3128", "user:"),
        ("http://:password@proxy.corp:3128", "http://proxy.corp:3128", ":password"),
        ("http://@proxy.corp:3128", "http://proxy.corp:3128", None),
        (
            "http://user:p%40ss%3Aw%2Ford%25%C3%BC@proxy.corp:3128",
            "http://proxy.corp:3128",
            "user:p@ss:w/ord%ü",
        ),
        ("http://corp%5Cuser:p@ss@proxy.corp:3128", "http://proxy.corp:3128", "corp\\user:p@ss"),
    ],
)
def test_the_login_of_a_proxy_is_kept_apart_from_its_url(text, url, login):
    proxy = settings(HTTPS_PROXY=text).proxies.for_url(REPLICATE)

    headers = {"Proxy-Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"} if login else {}
    assert Proxy(url, headers) == proxy


@pytest.mark.parametrize(
    "text",
    [
        "http://",
        "https://:3128",
        "http://proxy.corp:port",
        "http://proxy.corp:0",
        "http://proxy.corp:99999",
        "http://proxy.corp:3128/path",
        "http://proxy.corp:3128?query=1",
        "http://proxy.corp:3128#part",
        "http://user:s3cret#x@proxy.corp:3128",
        "http://user:s3cret/x@proxy.corp:3128",
        "http://proxy corp:3128",
        "http://proxy.corp\\:3128",
        "http://pröxy.corp:3128",
        "http://[::1",
        "http://[proxy.corp]:3128",
        "http://-proxy-:3128",
        "http://127.1:3128",
        "ftp://proxy.corp:3128",
        "file:///proxy.corp",
        "http:proxy.corp:3128",
        "//proxy.corp:3128",
        "user:s3cret",
    ],
)
def test_a_malformed_proxy_is_refused_at_start_without_being_repeated(text):
    with pytest.raises(SettingsError, match=r"^HTTPS_PROXY: must be http://host:port or ") as refused:
        settings(HTTPS_PROXY=text)

    assert "s3cret" not in str(refused.value)
    assert "proxy.corp" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4", "socks", "SOCKS5"])
def test_a_socks_proxy_is_refused_at_start(scheme):
    with pytest.raises(SettingsError, match=r"^HTTPS_PROXY: .*SOCKS proxies are not supported"):
        settings(HTTPS_PROXY=f"{scheme}://proxy.corp:1080")


@pytest.mark.parametrize(
    ("environ", "proxy"),
    [
        ({"HTTPS_PROXY": "http://upper"}, "http://upper"),
        ({"https_proxy": "http://lower"}, "http://lower"),
        ({"HTTPS_PROXY": "http://upper", "https_proxy": "http://lower"}, "http://upper"),
        ({"HTTPS_PROXY": " ", "https_proxy": "http://lower"}, "http://lower"),
        ({"HTTPS_PROXY": "http://upper", "no_proxy": "replicate.com"}, None),
        ({"HTTPS_PROXY": "http://upper", "NO_PROXY": "else.where", "no_proxy": "*"}, "http://upper"),
        ({"HTTP_PROXY": "http://other", "http_proxy": "http://other", "ALL_PROXY": "http://other"}, None),
        ({}, None),
    ],
)
def test_both_variables_are_read_in_either_case_and_upper_case_has_priority(environ, proxy):
    found = Settings.from_env(environ).proxies.for_url(REPLICATE)

    assert proxy == (found and str(found.url))


def test_the_proxy_variables_are_known_settings_in_either_case(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("https_proxy=http://proxy.corp\nno_proxy=x\nhttp_proxy=y\nALL_PROXY=z\n")
    for name in ("HTTP_PROXY", "http_proxy", "all_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "http://other")

    loaded = load()

    assert ({}, "http://proxy.corp") == (loaded.unknown, str(loaded.proxies.for_url(REPLICATE).url))


def test_the_login_of_a_proxy_is_hidden_in_every_rendering():
    given = settings(HTTPS_PROXY=f"{WITH_LOGIN}proxy.corp:3128")
    shown = f"{given!r} {given} {given.model_dump()} {given.model_dump_json()} {given.proxies!r}"

    assert [] == [each for each in (SECRET, "s3cret", LOGIN, LOGIN[6:]) if each in shown]


EXEMPT = {
    "*": True,
    "other.example,*": True,
    "": False,
    ",, ,": False,
    "api.replicate.com": True,
    "API.Replicate.COM": True,
    "api.replicate.com.": True,
    "replicate.com": True,
    ".replicate.com": True,
    "*.replicate.com": True,
    "com": True,
    "replicate.com:443": True,
    ".replicate.com:443": True,
    "replicate.com:80": False,
    "replicate.com:port": False,
    "licate.com": False,
    "pi.replicate.com": False,
    "x.api.replicate.com": False,
    ".api.replicate.com": True,
    "replicate.comm": False,
    "https://api.replicate.com": False,
    "10.0.0.0/8, localhost,127.0.0.1 ::1,<local>,[,.svc,.replicate.com": True,
    "localhost replicate.com": True,
    "localhost\treplicate.com": True,
}


@pytest.mark.parametrize("no_proxy", EXEMPT)
def test_no_proxy_exempts_hosts_and_all_below_them(no_proxy):
    proxies = settings(HTTPS_PROXY="http://proxy.corp", NO_PROXY=no_proxy).proxies

    assert EXEMPT[no_proxy] is (proxies.for_url(f"{REPLICATE}/v1/predictions") is None)


@pytest.mark.parametrize(
    ("no_proxy", "url", "is_direct"),
    [
        ("10.0.0.5", "https://10.0.0.5", True),
        ("10.0.0.5", "https://10.0.0.6", False),
        ("10.0.0.0/8", "https://10.255.0.1:8443/v1", True),
        ("10.0.0.0/8", "https://11.0.0.1", False),
        ("10.0.0.0/8:8443", "https://10.0.0.1:8443", True),
        ("10.0.0.0/8:8443", "https://10.0.0.1", False),
        ("fd00::/8", "https://[fd00::5]", True),
        ("fd00::5", "https://[fd00:0:0::5]", True),
        ("[fd00::5]:443", "https://[fd00::5]", True),
        ("[fd00::5]:444", "https://[fd00::5]", False),
        ("fd00::/8", "https://10.0.0.1", False),
        ("0.0.0.0/0", "https://gateway.corp", False),
        ("gateway", "https://gateway", True),
        ("localhost", "https://localhost:8443", True),
        ("", "https://localhost:8443", False),
    ],
)
def test_no_proxy_exempts_addresses_and_networks(no_proxy, url, is_direct):
    assert is_direct is (read_proxies("http://proxy.corp", no_proxy).for_url(url) is None)


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://api.replicate.com/v1", "HTTP://x.example"])
def test_plain_http_never_goes_through_the_proxy(url):
    assert read_proxies("http://proxy.corp", "").for_url(url) is None


# ── Requests to Replicate


async def looks(proxy: Proxy, *, number: int = 1) -> None:
    """Poll a prediction at Replicate through the proxy, `number` times."""
    async with parts(REPLICATE, connections=HttpConnections(proxy)) as service:
        for _ in range(number):
            with await service.others.acquire("admin") as lease:
                await service.client.predictions.get(ADMIN, "p1", lease=lease)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@on_a_loop
async def test_requests_to_replicate_are_tunnelled_over_one_connection(certificate, tls):
    async def answer(seen):
        return reply(CREATED)

    async with wire(answer) as server:
        with proxying(server.url, certificate, tls=tls) as proxy:
            await looks(read_proxy(proxy.url.replace("://", "://user:s3cret%3Ap%40ss%2Fword@")), number=2)

    assert ["api.replicate.com:443"] == proxy.asked
    assert f"Proxy-Authorization: {LOGIN}\r\n".lower() in proxy.heads[0].lower()
    assert SERVER_TOKEN not in proxy.heads[0]
    assert ["/v1/predictions/p1"] * 2 == [seen.target for seen in server.seen]
    assert [None, None] == [seen.headers.get("proxy-authorization") for seen in server.seen]


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "403 Forbidden", "502 Bad Gateway"])
@on_a_loop
async def test_a_refusal_by_the_proxy_raises_notsent(certificate, status):
    refusal = f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()
    refused = pytest.raises(NotSent, match=f"^the proxy answered {status[:3]}$")
    with proxying("", certificate, answer=refusal) as proxy, refused:
        await looks(read_proxy(proxy.url))


@on_a_loop
async def test_an_unreachable_proxy_raises_notsent_without_the_password(certificate, caplog):
    with proxying("", certificate) as gone:
        pass
    with caplog.at_level(logging.DEBUG), pytest.raises(NotSent) as caught:
        await looks(read_proxy(gone.url.replace("://", "://user:s3cret@")))

    assert "s3cret" not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"


@on_a_loop
async def test_replicates_certificate_is_verified_through_a_proxy(tmp_path):
    unknown = certified(tmp_path / "replicate.pem", *NAMES)
    async with host({}) as server:
        refused = pytest.raises(NotSent, match="ClientConnectorCertificateError")
        with proxying(server.url, unknown) as proxy, refused:
            await looks(read_proxy(proxy.url))

    assert [] == server.seen


# ── Downloads of outputs


async def fetched(url: str, proxy, *, upstream: str = REPLICATE, no_proxy: str = "", names: Names) -> bytes:
    hosts = OutputHosts(upstream, resolver=names, proxies=read_proxies(proxy.url, no_proxy))
    try:
        async with hosts.get(url) as answer:
            return b"".join([chunk async for chunk in answer.chunks])
    finally:
        await hosts.aclose()


@pytest.mark.parametrize("url", [f"{DELIVERY}/a.png", f"{REPLICATE}/a.png"])
@on_a_loop
async def test_outputs_are_downloaded_through_the_proxy_without_resolving_their_hosts(certificate, url):
    names = Names("10.0.0.1")
    async with host({"/a.png": file_reply(PNG)}) as server:
        with proxying(server.url, certificate) as proxy:
            assert PNG == await fetched(url, proxy, names=names)

    assert [f"{url.split('/')[2]}:443"] == proxy.asked
    assert [] == names.asked


@on_a_loop
async def test_an_exempt_delivery_host_is_reached_directly_and_its_address_is_checked(certificate):
    names = Names("10.0.0.1")
    with proxying("", certificate) as proxy, pytest.raises(OutputUnavailable, match="private network"):
        await fetched(f"{DELIVERY}/a.png", proxy, no_proxy="replicate.delivery", names=names)

    assert ([], ["x.replicate.delivery"]) == (proxy.asked, names.asked)


@on_a_loop
async def test_redirects_through_the_proxy_are_followed_only_to_output_hosts(certificate):
    answers = {"/a": redirect(f"{REPLICATE}/b"), "/b": redirect("https://evil.example/c")}
    async with host(answers) as server:
        refused = pytest.raises(OutputUnavailable, match="not one that outputs come from")
        with proxying(server.url, certificate) as proxy, refused:
            await fetched(f"{DELIVERY}/a", proxy, names=Names())

    assert ["x.replicate.delivery:443", "api.replicate.com:443"] == proxy.asked


@on_a_loop
async def test_a_redirect_to_an_exempt_host_bypasses_the_proxy_and_is_checked(certificate):
    names = Names("127.0.0.1")
    async with host({"/a": redirect("https://y.replicate.delivery/b")}) as server:
        refused = pytest.raises(OutputUnavailable, match="private network")
        with proxying(server.url, certificate) as proxy, refused:
            await fetched(f"{DELIVERY}/a", proxy, no_proxy="y.replicate.delivery", names=names)

    assert (["x.replicate.delivery:443"], ["y.replicate.delivery"]) == (proxy.asked, names.asked)


@on_a_loop
async def test_a_plain_http_upstream_is_reached_directly(certificate):
    async with host({"/a.png": file_reply(PNG)}) as server:
        with proxying("", certificate) as proxy:
            assert PNG == await fetched(f"{server.url}/a.png", proxy, upstream=server.url, names=Names())

    assert [] == proxy.asked


@on_a_loop
async def test_a_failing_proxy_makes_an_output_temporarily_unavailable(certificate):
    refusal = b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n"
    refused = pytest.raises(TemporarilyUnavailable, match=r"^the proxy answered 407$")
    with proxying("", certificate, answer=refusal) as proxy, refused:
        await fetched(f"{DELIVERY}/a.png", proxy, names=Names())
    with pytest.raises(TemporarilyUnavailable, match=r"^the proxy could not be reached$"):
        await fetched(f"{DELIVERY}/a.png", proxy, names=Names())


# ── The whole service


def test_the_service_reaches_replicate_and_its_outputs_through_the_proxy(
    make_app, simulator, certificate, capfd
):
    output = [f"{DELIVERY}/v1/account"]  # refused by 401 at once, without a retry
    simulator.inject(on="create", set={"status": "succeeded", "output": output})
    with proxying(simulator.url, certificate) as proxy:
        url = proxy.url.replace("://", "://user:s3cret@")
        client = make_app(
            HTTPS_PROXY=url, REPLICATE_BASE_URL=REPLICATE, LOG_LEVEL="info", LOG_FORMAT="json"
        ).test_client()
        answer = client.post("/generate", json=PICTURE, headers=ADMIN_KEY)
        figures = client.get("/status").text
    logged = capfd.readouterr().err

    assert (200, True) == (answer.status_code, answer.json["success"])
    assert {"api.replicate.com:443", "x.replicate.delivery:443"} == set(proxy.asked)
    assert f'"proxy": "{proxy.url}"' in logged
    assert [] == [each for each in ("s3cret", "Basic ") if each in logged + figures + answer.text]


def test_the_model_check_goes_through_the_proxy(simulator, certificate, capsys):
    with proxying(simulator.url, certificate) as proxy:
        given = {"REPLICATE_API_TOKEN": SERVER_TOKEN, "HTTPS_PROXY": proxy.url}
        status = main(["--check"], declared(), load=lambda: settings(**given))

    assert AGREE == status
    assert {"api.replicate.com:443"} == set(proxy.asked)
