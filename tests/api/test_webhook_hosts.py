"""WEBHOOK_HOSTS: the operator's own hosts, to which the webhooks of callers may go. No other request may reach them."""

import pytest

from errors import InvalidRequest
from harness.service_process import until
from network.host_rules import host_rules
from network.public_http import PrivateAddress, PublicOnlyResolver, TLSRequired, check_url
from parsing.context import ParseContext
from parsing.generation import parse_generation
from settings import SettingsError
from tests.support.api_client import PICTURE, look_up, submit
from tests.support.callers import USER
from tests.support.declarations import CONTEXT, REGISTRY
from tests.support.outbox_wiring import Names
from tests.support.served_in_process import receiving
from tests.support.wiring import on_a_loop, settings
from tests.unit.test_webhook_sender import Receiver, calling, reply

NOT_HTTPS = "must be an https URL"
NOT_PUBLIC = "must name a public host"

URLS = {
    ("hooks.internal", "http://hooks.internal/a"): None,
    ("hooks.internal", "https://hooks.internal:8443/a"): None,
    ("hooks.internal", "http://HOOKS.Internal:8080/a"): None,
    ("hooks.internal", "http://hooks.internal./a"): None,
    ("Hooks.Internal.", "http://hooks.internal/a"): None,
    ("hooks.internal", "http://x.hooks.internal/a"): NOT_HTTPS,
    ("hooks.internal", "https://x.hooks.internal/a"): NOT_PUBLIC,
    ("hooks.internal", "http://xhooks.internal/a"): NOT_HTTPS,
    ("hooks.internal", "http://hooks.internal.example.com/a"): NOT_HTTPS,
    ("hooks.internal", "http://hooks.internal@10.0.0.1/a"): "must not hold a user name or password",
    ("hooks.internal", "http://user:password@hooks.internal/a"): "must not hold a user name or password",
    ("hooks.internal", "http://evil.example/?hooks.internal"): NOT_HTTPS,
    ("hooks.internal", "http://evil.example#hooks.internal"): NOT_HTTPS,
    ("hooks.internal", "http://evil.example\\hooks.internal/"): NOT_PUBLIC,
    ("hooks.internal", "https://hooks.internal\\.evil.example/"): NOT_PUBLIC,
    ("hooks.internal", "https://hooks%2einternal/"): NOT_PUBLIC,
    ("hooks.internal", "http://hooks.internal:0/"): NOT_HTTPS,
    ("hooks.internal", "http://hooks.internal:99999/"): NOT_PUBLIC,
    ("hooks.internal", "ftp://hooks.internal/a"): NOT_HTTPS,
    ("hooks.internal", "https://hooks.example.com/a"): None,
    ("hooks.internal", "http://hooks.example.com/a"): NOT_HTTPS,
    ("hooks.internal", "https://10.0.0.5/a"): NOT_PUBLIC,
    ("hooks.internal", "https://localhost/a"): NOT_PUBLIC,
    ("hooks.internal:8080", "http://hooks.internal:8080/a"): None,
    ("hooks.internal:8080", "http://hooks.internal/a"): NOT_HTTPS,
    ("hooks.internal:80", "http://hooks.internal/a"): None,
    ("hooks.internal:443", "https://hooks.internal/a"): None,
    ("hooks.internal:80", "https://hooks.internal/a"): NOT_PUBLIC,
    ("hooks", "http://hooks:8000/a"): None,
    ("my_hooks-1", "http://my_hooks-1:8000/a"): None,
    ("localhost", "http://localhost:8000/a"): None,
    ("localhost", "http://127.0.0.1:8000/a"): NOT_HTTPS,
    (".internal.example", "http://a.internal.example/a"): None,
    (".internal.example", "http://a.b.internal.example/a"): None,
    ("*.internal.example", "http://a.b.internal.example/a"): None,
    (".internal.example", "http://internal.example/a"): NOT_HTTPS,
    (".internal.example", "http://evilinternal.example/a"): NOT_HTTPS,
    (".internal.example:8080", "http://a.internal.example:8080/a"): None,
    (".internal.example:8080", "http://a.internal.example:8081/a"): NOT_HTTPS,
    (".internal", "http://hooks.internal/a"): None,
    ("hooks.example.com", "http://hooks.example.com/a"): None,
    ("10.0.0.5", "http://10.0.0.5/a"): None,
    ("10.0.0.5", "https://10.0.0.5/a"): None,
    ("10.0.0.5", "http://10.0.0.6/a"): NOT_HTTPS,
    ("10.0.0.5", "https://10.0.0.6/a"): NOT_PUBLIC,
    ("10.0.0.5:8080", "http://10.0.0.5:8080/a"): None,
    ("10.0.0.5:8080", "http://10.0.0.5/a"): NOT_HTTPS,
    ("10.0.0.0/8", "http://10.255.1.2:9000/a"): None,
    ("10.0.0.0/8", "http://11.0.0.1/a"): NOT_HTTPS,
    ("10.0.0.0/8:9000", "http://10.255.1.2:9000/a"): None,
    ("10.0.0.0/8:9000", "http://10.255.1.2:9001/a"): NOT_HTTPS,
    ("10.0.0.0/8", "http://[::ffff:10.0.0.5]/a"): None,
    ("10.0.0.0/8", "http://[::ffff:11.0.0.5]/a"): NOT_HTTPS,
    ("10.0.0.0/8", "http://[fd00::5]/a"): NOT_HTTPS,
    ("10.0.0.0/8", "http://167772165/a"): NOT_HTTPS,
    ("10.0.0.0/8", "http://10.5/a"): NOT_HTTPS,
    ("10.0.0.0/8", "https://0x0a000005/a"): NOT_PUBLIC,
    ("10.0.0.0/8", "http://012.0.0.5/a"): NOT_HTTPS,
    ("10.0.0.0/8", "http://hooks/a"): None,
    ("10.0.0.0/8", "https://hooks.internal/a"): None,
    ("10.0.0.0/8:9000", "http://hooks/a"): NOT_HTTPS,
    ("fd00::/8", "http://[fd12::5]:8080/a"): None,
    ("fd00::/8", "http://[fe80::5]/a"): NOT_HTTPS,
    ("[fd00::5]:8080", "http://[fd00:0::5]:8080/a"): None,
    ("[fd00::5]:8080", "http://[fd00::5]/a"): NOT_HTTPS,
    ("fd00::5", "http://[fd00::5]/a"): None,
    ("a.internal, b.internal,,10.0.0.0/8 c.internal", "http://c.internal/a"): None,
    (" ,", "http://hooks.internal/a"): NOT_HTTPS,
}


@pytest.mark.parametrize(("hosts", "url"), URLS, ids=str)
def test_plain_http_urls_are_accepted_only_for_listed_hosts(hosts, url):
    allowed_hosts, wrong = settings(WEBHOOK_HOSTS=hosts).webhook_hosts, URLS[hosts, url]
    if wrong is None:
        assert url == check_url(url, loopback=False, allowed_hosts=allowed_hosts)
    else:
        with pytest.raises(ValueError, match=r"^must ") as refused:
            check_url(url, loopback=False, allowed_hosts=allowed_hosts)
        assert wrong == str(refused.value)


@pytest.mark.parametrize(
    ("hosts", "number"),
    [
        ("*", 1),
        (".", 1),
        ("*.", 1),
        ("hooks.internal,*", 2),
        ("http://hooks.internal", 1),
        ("hooks.internal/path", 1),
        ("hooks.internal:0", 1),
        ("hooks.internal:65536", 1),
        ("hooks.internal:port", 1),
        ("hooks.internal:", 1),
        (":8080", 1),
        ("user@hooks.internal", 1),
        ("hooks..internal", 1),
        ("-hooks.internal", 1),
        ("*hooks.internal", 1),
        ("hooks.*", 1),
        ("h\u00f6oks.internal", 1),
        ("10.0.0.256", 1),
        ("10.0.0", 1),
        ("10.0.0.0/33", 1),
        ("10.0.0.5/8", 1),
        ("10.0.0.0/", 1),
        ("10.0.0.0-10.0.0.9", 1),
        ("fd00::/129", 1),
        ("fd00:::5", 1),
        ("[fd00::5", 1),
        ("[fd00::5]:0", 1),
        ("[hooks.internal]:80", 1),
        ("10.0.0.0/8;a.internal", 1),
        ("a.internal, 10.0.0.0/8, ?", 3),
    ],
)
def test_a_malformed_list_is_refused_at_start_with_the_number_of_the_entry(hosts, number):
    with pytest.raises(SettingsError, match=r"^WEBHOOK_HOSTS: must list hosts such as ") as refused:
        settings(WEBHOOK_HOSTS=hosts)

    assert str(refused.value).endswith(f"entry {number} is none.")


# ── Checks of resolved addresses

PRIVATE, PLAIN = PrivateAddress, TLSRequired


@pytest.mark.parametrize(
    ("hosts", "name", "port", "addresses", "tls", "used"),
    [
        ("hooks.internal", "hooks.internal", 80, ["10.0.0.5", "fd00::5"], False, ["10.0.0.5", "fd00::5"]),
        ("hooks.internal", "HOOKS.internal.", 80, ["10.0.0.5"], False, ["10.0.0.5"]),
        ("hooks.internal", "hooks.internal", 443, ["127.0.0.1"], True, ["127.0.0.1"]),
        ("hooks.internal", "other.internal", 443, ["10.0.0.5"], True, PRIVATE),
        ("hooks.internal", "other.example.com", 443, ["10.0.0.5"], True, PRIVATE),
        ("hooks.internal", "other.example.com", 443, ["8.8.8.8"], True, ["8.8.8.8"]),
        ("hooks.internal:80", "hooks.internal", 443, ["10.0.0.5"], True, PRIVATE),
        ("10.0.0.0/8", "any.example.com", 443, ["10.0.0.5"], True, ["10.0.0.5"]),
        ("10.0.0.0/8", "any.example.com", 80, ["10.0.0.5"], False, ["10.0.0.5"]),
        ("10.0.0.0/8", "any.example.com", 80, ["::ffff:10.0.0.5"], False, ["::ffff:10.0.0.5"]),
        ("10.0.0.0/8", "any.example.com", 443, ["192.168.0.1"], True, PRIVATE),
        ("10.0.0.0/8", "any.example.com", 443, ["169.254.169.254"], True, PRIVATE),
        ("10.0.0.0/8", "any.example.com", 443, ["8.8.8.8"], True, ["8.8.8.8"]),
        ("10.0.0.0/8", "any.example.com", 80, ["8.8.8.8"], False, PLAIN),
        ("10.0.0.0/8", "any.example.com", 80, ["192.168.0.1"], False, PLAIN),
        ("10.0.0.0/8", "any.example.com", 443, ["192.168.0.1", "10.0.0.5"], True, ["10.0.0.5"]),
        ("10.0.0.0/8", "any.example.com", 80, ["8.8.8.8", "10.0.0.5"], False, ["10.0.0.5"]),
        ("10.0.0.0/8:8080", "any.example.com", 8080, ["10.0.0.5"], False, ["10.0.0.5"]),
        ("10.0.0.0/8:8080", "any.example.com", 80, ["10.0.0.5"], False, PLAIN),
        ("fd00::/8", "any.example.com", 80, ["10.0.0.5", "fd00::5%eth0"], False, ["fd00::5%eth0"]),
        ("127.0.0.0/8", "localhost", 80, ["::1", "127.0.0.1"], False, ["127.0.0.1"]),
        ("", "any.example.com", 443, ["8.8.8.8", "10.0.0.5"], True, PRIVATE),
    ],
)
@on_a_loop
async def test_a_host_is_checked_by_its_resolved_addresses(hosts, name, port, addresses, tls, used):
    resolver = PublicOnlyResolver(Names(*addresses), allowed_hosts=host_rules(hosts), tls=tls)
    if isinstance(used, list):
        assert used == [each["host"] for each in await resolver.resolve(name, port)]
    else:
        with pytest.raises(used) as refused:
            await resolver.resolve(name, port)
        assert used is type(refused.value)


@pytest.mark.parametrize(
    ("hosts", "name", "address", "state", "trouble"),
    [
        ("hooks.internal", "hooks.internal", "127.0.0.1", "delivered", None),
        ("127.0.0.0/8", "hooks.internal", "127.0.0.1", "delivered", None),
        ("127.0.0.0/8", "hooks.example.com", "127.0.0.1", "delivered", None),
        ("10.0.0.0/8", "hooks.internal", "127.0.0.1", "pending", "its host may be called by https only"),
        ("10.0.0.0/8", "hooks.internal", "8.8.8.8", "pending", "its host may be called by https only"),
        ("other.internal", "hooks.internal", "127.0.0.1", "failed", "it must be an https URL"),
    ],
)
@on_a_loop
async def test_a_webhook_is_posted_over_http_only_to_listed_hosts(hosts, name, address, state, trouble):
    names, receiver, allowed_hosts = Names(address), Receiver(reply("200 OK")), host_rules(hosts)
    async with calling(receiver, loopback=False, resolver=names, allowed_hosts=allowed_hosts) as (
        url,
        deliver,
    ):
        end = await deliver(url.replace("127.0.0.1", name))

    assert (state, trouble) == (end.state, end.trouble)
    assert (state == "delivered") is bool(receiver.seen)


@on_a_loop
async def test_a_name_that_later_resolves_to_a_private_address_is_refused():
    """The second lookup is checked like the first; the resolver does not rely on its earlier result."""
    names, allowed_hosts = Names("10.0.0.5"), host_rules("10.0.0.0/8")
    resolver = PublicOnlyResolver(names, loopback=False, allowed_hosts=allowed_hosts, tls=True)
    assert ["10.0.0.5"] == [each["host"] for each in await resolver.resolve("a.example.com", 443)]
    names.addresses = ("169.254.169.254",)
    with pytest.raises(PrivateAddress):
        await resolver.resolve("a.example.com", 443)
    await resolver.close()


# ── The whole service


def test_a_webhook_to_a_listed_host_is_delivered(make_app):
    with receiving() as receiver:
        client = make_app(WEBHOOK_HOSTS=receiver.url.removeprefix("http://")).test_client()
        target = submit(client, "A fox", webhook=f"{receiver.url}/here")
        until(lambda: receiver.received)
        refused = client.post("/generate", json=PICTURE | {"webhook": "http://127.0.0.1:1/"}, headers=USER)
        until(lambda: "delivered" == look_up(client, target)["webhook"]["state"])

    assert ["/here"] == [message.path for message in receiver.received]
    assert (400, "must be an https URL") == (refused.status_code, refused.json["errors"][0]["message"])


def test_input_and_output_urls_on_listed_hosts_stay_refused(make_app, simulator):
    client = make_app(WEBHOOK_HOSTS="127.0.0.0/8,hooks.internal").test_client()
    for image in ("http://127.0.0.1:8000/a.png", "https://127.0.0.1/a.png", "https://hooks.internal/a.png"):
        refused = client.post("/generate", json=PICTURE | {"image": image}, headers=USER)
        assert (400, "image") == (refused.status_code, refused.json["errors"][0]["field"])

    with receiving() as other:
        simulator.inject(on="create", set={"status": "succeeded", "output": [f"{other.url}/a.png"]})
        client.post("/generate", json=PICTURE, headers=USER)

    assert [] == other.received


def test_an_accepted_webhook_stays_valid_after_its_host_is_removed_from_the_list():
    body = PICTURE | {"webhook": "http://hooks.internal/a"}
    allowing = ParseContext(REGISTRY, webhook_hosts=host_rules("hooks.internal"))

    assert body["webhook"] == parse_generation(body, allowing).webhook
    assert body["webhook"] == parse_generation(body, ParseContext(REGISTRY, accepted=True)).webhook
    with pytest.raises(InvalidRequest):
        parse_generation(body, CONTEXT)
