"""Webhooks from Replicate: they are requested, trusted if signed, and replace a lost answer."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from auth import credentials
from catalog.outputs import Url
from errors import OutcomeUnknown, ServerTokenRejected, UpstreamError
from providers import Prediction, TryAgain
from providers.fingerprints import fingerprint
from providers.origins import Origin
from providers.pushes import PushedResult, Untrusted
from providers.replicate.absence import SearchTiming
from providers.replicate.answers import read_page, read_secret
from providers.replicate.push import GOOD_FOR, SECRETS_KEPT, read_push, signing_secrets
from providers.replicate.reconciliation import Creations
from simulator import Options
from simulator.webhooks import signed
from tests.support import virtual_time
from tests.support.callers import SERVER_TOKEN
from tests.support.virtual_replicate import replicate
from tests.support.wiring import ADMIN, OTHER_USER, USER, listening, on_a_loop, parts, until

MODEL = "black-forest-labs/flux-dev"
SENT = {"prompt": "a fox"}
SECRET = "whsec_" + base64.b64encode(b"a key of four and twenty").decode()
OVER = {
    "id": "p1",
    "status": "succeeded",
    "model": MODEL,
    "input": SENT,
    "output": ["https://replicate.delivery/a.png"],
    "webhook": "https://here.test/hooks/1",
}


def body(**fields) -> bytes:
    return json.dumps(OVER | fields).encode()


def headers(content: bytes, *, secret: str = SECRET, **changed: str | None) -> dict[str, str]:
    """The headers of a webhook with this body. `changed` replaces some of them; None leaves one out."""
    good = signed(content, message="msg_1", secret=secret)
    return {name: value for name, value in (good | changed).items() if value is not None}


def refused(sent: dict[str, str], content: bytes, secret: str = SECRET) -> bool:
    with pytest.raises(Untrusted) as untrusted:
        read_push(sent, content, secret)
    return secret not in str(untrusted.value)


def test_a_message_signed_by_replicate_is_read():
    push = read_push(headers(body()), body(), SECRET)

    assert ("p1", "succeeded", (Url(OVER["output"][0]),)) == (
        push.prediction.id,
        push.prediction.status,
        push.prediction.outputs,
    )
    assert (Origin(MODEL, input=SENT), OVER["webhook"]) == (push.origin, push.webhook)


def test_header_names_are_read_in_any_case():
    sent = {name.title(): value for name, value in headers(body()).items()}

    assert "p1" == read_push(sent, body(), SECRET).prediction.id


def test_any_of_several_signatures_is_enough():
    good = headers(body())
    sent = good | {"webhook-signature": f"v1,AAAA {good['webhook-signature']}"}

    assert "p1" == read_push(sent, body(), SECRET).prediction.id


def test_fields_that_a_message_omits_are_none():
    content = json.dumps({"id": "p1", "status": "failed"}).encode()

    push = read_push(headers(content), content, SECRET)
    assert (Origin(), None) == (push.origin, push.webhook)
    odd = body(model=7, input=["a"], webhook={})
    push = read_push(headers(odd), odd, SECRET)
    assert (None, None, None) == (push.origin.model, push.origin.content(), push.webhook)


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
def test_a_message_without_a_required_header_is_not_trusted(name):
    assert refused(headers(body(), **{name: None}), body())
    assert refused(headers(body(), **{name: ""}), body())


def test_another_key_or_another_body_is_not_trusted():
    other = "whsec_" + base64.b64encode(b"another").decode()

    assert refused(headers(body(), secret=other), body())
    assert refused(headers(body()), body(status="failed"))
    assert refused(headers(body()) | {"webhook-id": "msg_2"}, body())


@pytest.mark.parametrize("age", [301, -360, 10**6, 10**30])
def test_a_signed_message_from_the_past_or_future_is_not_trusted(age):
    assert refused(stamped(str(int(time.time()) - age)), body())


@pytest.mark.parametrize("stamp", ["soon", "1e9", "", "9" * 5000, "nan", "1 2", "\ud800"])
def test_a_signed_message_whose_timestamp_is_no_number_is_not_trusted(stamp):
    assert refused(stamped(stamp), body())


@pytest.mark.parametrize("age", [-200, 0, 200])
def test_a_message_a_few_minutes_old_is_trusted(age):
    assert "p1" == read_push(stamped(str(int(time.time()) - age)), body(), SECRET).prediction.id


def stamped(stamp: str) -> dict[str, str]:
    """The headers of a message that was signed with this timestamp."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    text = b"msg_1." + stamp.encode(errors="surrogatepass") + b"." + body()
    signature = base64.b64encode(hmac.digest(key, text, hashlib.sha256)).decode()
    return {"webhook-id": "msg_1", "webhook-timestamp": stamp, "webhook-signature": f"v1,{signature}"}


@pytest.mark.parametrize("signature", ["v1", "v1,", ",", "v1,ä", "v1,!", "AAAA", "v1,AAA", "v1,\ud800"])
def test_a_malformed_signature_is_not_trusted(signature):
    assert refused(headers(body()) | {"webhook-signature": signature}, body())


@pytest.mark.parametrize(
    "secret", ["", "whsec_", "whsec_a", "nothing", "whsec_a_b", "whsec_ä", "\ud800_\ud800"]
)
def test_nothing_is_trusted_with_a_malformed_secret_and_the_secret_is_not_shown(secret):
    with pytest.raises(Untrusted) as untrusted:
        read_push(headers(body()), body(), secret)
    assert "The webhook is not signed by Replicate, or not lately." == str(untrusted.value)


@pytest.mark.parametrize(
    "content",
    [
        b"not json",
        b"[]",
        b"7",
        b"null",
        b"{}",
        b'{"id": "p1"}',
        b'{"id": 7, "status": "succeeded"}',
        b'{"id": "p1", "status": null}',
        b"[" * 100_000,
        b'{"id": "p1", "status": "x", "input": ' + b'{"a":' * 900 + b"1" + b"}" * 900 + b"}",
        b"9" * 5000,
    ],
)
def test_a_signed_message_without_a_prediction_is_not_trusted(content):
    try:
        push = read_push(headers(content), content, SECRET)
    except Untrusted:
        return
    assert "p1" == push.prediction.id  # a depth that can still be read


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"\x00", "\ud800".encode(errors="surrogatepass")])
def test_a_signed_message_that_is_not_text_is_not_trusted(content):
    assert refused(headers(content), content)


def test_a_signature_with_an_empty_key_is_not_trusted():
    assert refused(headers(body(), secret="whsec_"), body(), "whsec_")


def test_a_signature_of_another_version_is_not_trusted():
    good = headers(body())

    assert refused(good | {"webhook-signature": "v2" + good["webhook-signature"].removeprefix("v1")}, body())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(fields=st.dictionaries(st.sampled_from([*OVER, "logs", "created_at", "error", "completed_at"]), JSON))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_any_signed_message_is_read_or_untrusted(fields):
    content = body(**fields)
    with suppress(Untrusted):
        assert isinstance(read_push(headers(content), content, SECRET), PushedResult)


@given(
    sent=st.dictionaries(
        st.sampled_from(["webhook-id", "webhook-timestamp", "Webhook-Signature", "x"]), st.text(), max_size=4
    ),
    content=st.binary(),
    secret=st.text(),
)
@settings(max_examples=300, deadline=None, derandomize=True)
def test_any_unsigned_message_raises_untrusted_and_nothing_else(sent, content, secret):
    with pytest.raises(Untrusted):
        read_push(sent, content, secret)


# The secret is requested once.


class Asked:
    """Answers each request for a secret after a second: first with these results in order, then with a valid
    secret."""

    def __init__(self, *answers) -> None:
        self._answers = list(answers)
        self.callers: list[str] = []

    async def __call__(self, caller):
        self.callers.append(caller.id)
        await asyncio.sleep(1)
        answer = self._answers.pop(0) if self._answers else {"key": f"whsec_{caller.id}"}
        if isinstance(answer, Exception):
            raise answer
        return read_secret(answer)


def test_a_hundred_concurrent_callers_share_one_request_for_the_secret():
    async def scenario():
        asked = Asked()
        secrets = signing_secrets(asked)
        results = await asyncio.gather(*(secrets.get(ADMIN) for _ in range(100)))
        return set(results) | {await secrets.get(ADMIN)}, asked.callers

    assert ({"whsec_admin"}, ["admin"]) == virtual_time.run(scenario())


def test_a_cancelled_wait_for_a_secret_cancels_no_other_wait():
    async def scenario():
        asked = Asked()
        secrets = signing_secrets(asked)
        first, second = (asyncio.create_task(secrets.get(ADMIN)) for _ in range(2))
        await asyncio.sleep(0.5)
        first.cancel()
        return await second, asked.callers

    assert ("whsec_admin", ["admin"]) == virtual_time.run(scenario())


@pytest.mark.parametrize(
    "failure", [{"key": None}, {"key": ""}, {}, ["whsec_x"], None, UpstreamError("no"), RuntimeError("a bug")]
)
def test_a_secret_that_could_not_be_fetched_is_requested_again(failure):
    async def scenario():
        secrets = signing_secrets(Asked(failure))
        failures = await asyncio.gather(*(secrets.get(ADMIN) for _ in range(3)), return_exceptions=True)
        return {type(each) for each in failures}, await secrets.get(ADMIN)

    failed, then = virtual_time.run(scenario())
    assert {RuntimeError if isinstance(failure, RuntimeError) else UpstreamError} == failed
    assert "whsec_admin" == then


def test_secrets_are_bounded_and_fetched_again_after_an_hour():
    async def scenario():
        asked = Asked()
        secrets = signing_secrets(asked)
        await secrets.get(ADMIN)
        await asyncio.sleep(GOOD_FOR - 1)
        await secrets.get(ADMIN)
        before = len(asked.callers)
        await asyncio.sleep(2)
        await secrets.get(ADMIN)
        after = len(asked.callers)
        for number in range(SECRETS_KEPT):
            await secrets.get(type(USER)("user", f"user_{number}", credentials(replicate="r8_x")))
        await secrets.get(ADMIN)
        asked_of_admin = asked.callers.count("admin")
        for number in range(1, SECRETS_KEPT):
            await secrets.get(type(USER)("user", f"user_{number}", credentials(replicate="r8_x")))
        return before, after, asked_of_admin, len(asked.callers) - asked_of_admin

    assert (1, 2, 3, SECRETS_KEPT) == virtual_time.run(scenario())


def test_the_repr_of_a_secret_hides_it():
    async def scenario():
        secrets = signing_secrets(Asked())
        return repr([await secrets.get(ADMIN)]), repr(vars(secrets))

    assert [] == [shown for shown in virtual_time.run(scenario()) if "whsec" in shown]


@on_a_loop
async def test_each_callers_secret_is_their_own_accounts_and_takes_one_request_of_the_second_window(
    simulator,
):
    async with parts(simulator) as service:
        results = [
            await service.provider.webhook_secret(caller) for caller in (ADMIN, USER, OTHER_USER, ADMIN)
        ]
        used = service.others.statistics().current_rate_per_minute

    assert (results[0], 3) == (results[3], len(set(results)))
    assert {"secret": 3} == simulator.counts().requests
    assert 3 == used


@pytest.mark.parametrize(
    ("fault", "error"), [({"status": 401}, ServerTokenRejected), ({"reset": "after"}, UpstreamError)]
)
@on_a_loop
async def test_a_secret_that_replicate_does_not_send_is_a_service_error(simulator, fault, error):
    simulator.inject(on="secret", **fault)
    async with parts(simulator) as service:
        with pytest.raises(error):
            await service.provider.webhook_secret(ADMIN)
        assert (await service.provider.webhook_secret(ADMIN)).startswith("whsec_")


# Webhooks about a creation whose answer was lost or is pending.


def over(prediction_id: str = "p1", *, model: str | None = MODEL, sent=SENT) -> PushedResult:
    return PushedResult(
        Prediction(prediction_id, "succeeded", (Url("https://a"),)), Origin(model, input=sent)
    )


class Account:
    """The account's predictions, as one page of a list."""

    def __init__(self, *listed: str) -> None:
        self.creations = Creations(self.page)
        self.readings = 0
        made = {"model": MODEL, "input": SENT, "created_at": "2999-01-01T00:00:00Z"}
        self._items = [{"id": prediction_id} | made for prediction_id in listed]

    async def page(self, caller, query):  # noqa: ARG002
        self.readings += 1
        return read_page({"results": self._items, "next": None})

    def begin(self, reference="gen_a.1"):
        return self.creations.begin(ADMIN, MODEL, fingerprint(SENT), reference=reference, since=time.time())


@pytest.mark.parametrize("at", [0.0, 0.3, 0.5, 1.7, 4.99])
def test_a_webhook_ends_a_search_at_once_with_its_prediction(at):
    async def scenario():
        account = Account()
        with account.begin() as creation:
            asyncio.get_running_loop().call_at(
                at, account.creations.by_reference("gen_a.1").receive_push, over()
            )
            found = await creation.find()
        return found.id, found.is_made, round(found.age, 2), asyncio.get_running_loop().time()

    assert ("p1", True, at, at) == virtual_time.run(scenario())


def test_a_prediction_pushed_before_the_answer_is_adopted_without_a_reading():
    async def scenario():
        account = Account()
        with account.begin() as creation:
            creation.receive_push(over())
            await asyncio.sleep(30)
            found = await creation.find()
        return found.id, account.readings

    assert ("p1", 0) == virtual_time.run(scenario())


@pytest.mark.parametrize(
    "push", [over(model="another/model"), over(model=None), over(sent={"prompt": "a vixen"}), over(sent=None)]
)
def test_a_webhook_of_another_model_or_input_ends_no_search(push):
    async def scenario():
        account = Account()
        with account.begin() as creation:
            creation.receive_push(push)
            with pytest.raises(TryAgain):
                await creation.find()
        return account.creations.is_known("p1")

    assert not virtual_time.run(scenario())


def test_a_pushed_prediction_on_record_is_adopted_by_no_other_creation():
    async def scenario():
        account = Account()
        account.creations.register_known("p1")
        with account.begin() as creation:
            creation.receive_push(over())
            with pytest.raises(TryAgain):
                await creation.find()

    virtual_time.run(scenario())


def test_the_first_pushed_prediction_counts_however_often_it_is_pushed():
    async def scenario():
        account = Account()
        with account.begin() as creation:
            finding = asyncio.create_task(creation.find())
            await asyncio.sleep(1)
            for prediction_id in ("p1", "p1", "p2"):
                creation.receive_push(over(prediction_id))
            return (await finding).id

    assert "p1" == virtual_time.run(scenario())


def test_an_identical_uncertain_creation_neither_adopts_nor_counts_the_pushed_prediction_of_another():
    """Two predictions are left but only one uncertain creation, so the second may belong to another
    program."""

    async def scenario():
        account = Account("p1", "p2", "p3")
        with account.begin() as other, account.begin("gen_b.1") as creation:
            asyncio.get_running_loop().call_at(2, other.receive_push, over("p1"))
            with pytest.raises(OutcomeUnknown):
                await creation.find()

    virtual_time.run(scenario())


@pytest.mark.parametrize("tick", range(12))
def test_a_push_in_any_tick_of_a_search_ends_it_with_the_pushed_prediction(tick):
    """The push comes around the last reading, which is about to find that nothing arrived."""

    async def scenario():
        account = Account()
        with account.begin() as creation:
            finding = asyncio.create_task(creation.find())
            await asyncio.sleep(5.0)
            for _ in range(tick):
                await asyncio.sleep(0)
            was_over = finding.done()
            creation.receive_push(over())
            ended, *_ = await asyncio.gather(finding, return_exceptions=True)
            await asyncio.sleep(0)
        return was_over, type(ended)

    was_over, ended = virtual_time.run(scenario())
    assert (TryAgain if was_over else Prediction) is ended


def test_a_search_cancelled_in_the_tick_of_a_push_stays_cancelled():
    async def scenario():
        account = Account()
        with account.begin() as creation:
            finding = asyncio.create_task(creation.find())
            await asyncio.sleep(1)
            finding.cancel()
            creation.receive_push(over())
            await asyncio.gather(finding, return_exceptions=True)
            return finding.cancelled()

    assert virtual_time.run(scenario())


# Through the provider, in virtual time.


def creating(service, *, reference="gen_a.1", caller=ADMIN, callback=None, lease=None):
    return service.provider.create(
        caller,
        MODEL,
        SENT,
        content=fingerprint(SENT),
        lease=lease,
        cancel_after=60,
        reference=reference,
        callback=callback,
    )


def test_a_result_pushed_before_the_answer_is_read_ends_the_wait():
    async def scenario():
        async with replicate(Options(prediction_seconds=0.5, jitter=0, answer_delay=(1, 1))) as (
            service,
            world,
        ):
            provider = service.provider
            with await service.gate.acquire("admin") as lease:
                creation = asyncio.create_task(creating(service, lease=lease))
                await asyncio.sleep(1.8)
                (made,) = world.predictions
                provider.receive_push("gen_a.1", over(made.id))
                created = await creation
            ended = await provider.wait(ADMIN, created.prediction, model=MODEL)
            at = asyncio.get_running_loop().time()
            return ended.outputs, at, world.counters.snapshot().requests

    assert ((Url("https://a"),), 2.0, {"create": 1}) == virtual_time.run(scenario())


def test_a_push_that_names_another_prediction_than_the_answer_ends_neither():
    async def scenario():
        async with replicate(Options(prediction_seconds=8, jitter=0, answer_delay=(1, 1))) as (
            service,
            world,
        ):
            provider = service.provider
            with await service.gate.acquire("admin") as lease:
                creation = asyncio.create_task(creating(service, lease=lease))
                await asyncio.sleep(1.5)
                provider.receive_push("gen_a.1", over("forged"))
                created = await creation
            return created.prediction.id == next(iter(world.predictions)).id, provider.watcher.pushes.early(
                "forged"
            )

    assert (True, None) == virtual_time.run(scenario())


def test_a_push_cannot_end_the_watch_of_another_attempts_prediction():
    async def scenario():
        async with replicate(Options(prediction_seconds=8, jitter=0)) as (service, _):
            provider = service.provider
            with await service.gate.acquire("admin") as lease:
                created = await creating(service, lease=lease)
            waiting = asyncio.create_task(provider.wait(ADMIN, created.prediction, model=MODEL))
            await asyncio.sleep(1)
            provider.receive_push("gen_b.1", over(created.prediction.id))
            await asyncio.sleep(1)
            still = waiting.done()
            provider.receive_push("gen_a.1", over(created.prediction.id))
            return still, (await waiting).outputs, asyncio.get_running_loop().time()

    assert (False, (Url("https://a"),), 2.0) == virtual_time.run(scenario())


def test_a_lost_answer_followed_by_a_webhook_costs_no_reading():
    async def scenario():
        async with replicate(
            Options(prediction_seconds=8, jitter=0), search=SearchTiming(quick=(5.0, 5.0))
        ) as (
            service,
            world,
        ):
            world.faults.inject(on="create", reset="after")
            with await service.gate.acquire("admin") as lease:
                creation = asyncio.create_task(creating(service, lease=lease))
                await asyncio.sleep(1)
                (made,) = world.predictions
                service.provider.receive_push("gen_a.1", over(made.id))
                created = await creation
            at = asyncio.get_running_loop().time()
            return (
                created.prediction.id == made.id,
                created.prediction.is_made,
                at,
                world.counters.snapshot().requests,
            )

    assert (True, True, 1.0, {"create": 1}) == virtual_time.run(scenario())


# Over real sockets: webhooks are requested, signed, sent and trusted.


@asynccontextmanager
async def receiving(provider, caller=ADMIN):
    """The address of a receiver that verifies as the service does, and the webhooks that it received."""
    pushes: list[PushedResult] = []

    async def serve(reader, writer):
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        sent = dict(line.split(": ", 1) for line in head[1:] if line)
        length = next(int(value) for name, value in sent.items() if name.lower() == "content-length")
        content = await reader.readexactly(length)
        pushes.append(read_push(sent, content, await provider.webhook_secret(caller)))
        provider.receive_push(head[0].split(" ")[1].strip("/"), pushes[-1])
        writer.write(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with listening(serve) as url:
        yield f"{url}/gen_a.1", pushes


@on_a_loop
async def test_a_creation_with_a_callback_ends_by_its_webhook_without_a_poll(simulator):
    async with parts(simulator) as service, receiving(service.provider) as (callback, results):
        with await service.gate.acquire("admin") as lease:
            created = await creating(service, lease=lease, callback=callback)
        ended = await service.provider.wait(ADMIN, created.prediction, model=MODEL)

    (made,) = simulator.predictions()
    assert {"version": MODEL, "webhook": callback, "webhook_events_filter": ["completed"]} == {
        name: value for name, value in made.body.items() if name != "input"
    }
    assert (made.id, tuple(map(Url, made.output))) == (ended.id, ended.outputs)
    assert [(made.id, MODEL, fingerprint(made.input), callback)] == [
        (each.prediction.id, each.origin.model, each.origin.content(), each.webhook) for each in results
    ]
    assert {"create": 1, "secret": 1} == simulator.counts().requests


@on_a_loop
async def test_a_lost_answer_is_adopted_from_the_webhook_over_real_sockets(simulator):
    simulator.inject(on="create", reset="after")
    simulator.inject(on="list", times=100, status=500)
    async with (
        parts(simulator, search=SearchTiming(quick=(5.0,))) as service,
        receiving(service.provider) as (callback, pushes),
    ):
        with await service.gate.acquire("admin") as lease:
            created = await creating(service, lease=lease, callback=callback)
        await until(lambda: pushes)

    (made,) = simulator.predictions()
    assert (made.id, tuple(map(Url, made.output)), SERVER_TOKEN) == (
        created.prediction.id,
        created.prediction.outputs,
        made.token,
    )
