"""Replicate refuses a version, a model or a deployment: that is final, and says what to do."""

import json

import httpx
import pytest
from structlog.testing import capture_logs

from errors import InvalidRequest, UpstreamError, UpstreamRateLimited
from providers import TryAgain
from providers.fingerprints import fingerprint
from providers.redaction import REDACTED
from tests.support.connections import FakeConnections
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import ADMIN, parts

ID = "5c7d5dc6dd8bf75c1acaa8565735e7986bc5b66206b55cca93cb72c9bf15ccaa"
SENT = {"prompt": "a fox"}
SECRET = "hf_marked_secret"
NO_VERSION = {
    "title": "Invalid version or not permitted",
    "detail": "The specified version does not exist (or perhaps you don't have permission to use it?)",
    "status": 422,
}
DISABLED = {"detail": "Sorry, this version is currently disabled due to failing setup runs.", "status": 422}
NOT_FOUND = {"detail": "The requested resource could not be found.", "status": 404}
LOW_CREDIT = {
    "detail": "Request was throttled. Your rate limit for creating predictions is reduced to 6 requests per minute "
    "with a burst of 1 requests while you have less than $5.0 in credit. Your rate limit resets in ~10s.",
    "status": 429,
    "retry_after": 10,
}


class Refusing(FakeConnections):
    """A Replicate that answers each creation so, and any other request with an account."""

    def __init__(self, status: int, body: dict) -> None:
        self._status = status
        self._body = body
        self.sent: list[tuple[str, dict]] = []

    async def respond(self, request: httpx.Request) -> httpx.Response:
        if request.method != "POST":
            return httpx.Response(200, json={"type": "user", "username": "ann"})
        self.sent.append((request.url.path, json.loads(await request.aread())))
        return httpx.Response(self._status, json=self._body)


async def created(upstream, target, *, secrets=None):
    """The outcome of a creation at this Replicate."""
    async with parts("http://replicate.test", connections=upstream) as service:
        with await service.gate.acquire("admin") as lease:
            try:
                return await service.provider.create(
                    ADMIN,
                    target,
                    SENT,
                    content=fingerprint(SENT),
                    lease=lease,
                    cancel_after=60,
                    reference="gen_a.1",
                    callback="https://here.test/webhooks/replicate",
                    secrets=secrets or {},
                )
            except Exception as error:
                return error


@pytest.mark.parametrize(
    ("target", "status", "body", "says"),
    [
        (f"ann/fox:{ID}", 422, NO_VERSION, "no such version"),
        (f"ann/fox:{ID}", 404, NOT_FOUND, "no such version"),
        (ID, 422, NO_VERSION, "no such version"),
        (ID, 404, NOT_FOUND, "no such version"),
        (f"ann/fox:{ID}", 422, DISABLED, "has disabled this version"),
        (f"ann/fox:{ID}", 400, DISABLED, "has disabled this version"),
        (f"ann/fox:{ID}", 403, DISABLED, "has disabled this version"),
        ("ann/fox", 422, NO_VERSION, "needs a version: owner/name:<64 hex digits>"),
        ("deployments/acme/app", 404, NOT_FOUND, "no such deployment"),
        ("deployments/acme/app", 422, DISABLED, "has disabled this version"),
    ],
)
@in_virtual_time
async def test_a_target_that_replicate_does_not_run_is_a_problem_of_model_name(target, status, body, says):
    upstream = Refusing(status, body)
    refused = await created(upstream, target)

    assert isinstance(refused, InvalidRequest)
    (problem,) = refused.as_item()["errors"]
    assert ("model_name", target[:200]) == (problem["field"], problem["given"])
    assert says in problem["message"]
    assert (False, True, 1) == (refused.retryable, refused.falls_back, len(upstream.sent))


@in_virtual_time
async def test_an_official_model_that_is_gone_is_an_upstream_error_as_before():
    upstream = Refusing(404, NOT_FOUND)
    gone = await created(upstream, "ann/fox")

    assert (UpstreamError, True, 1) == (type(gone), gone.falls_back, len(upstream.sent))


@pytest.mark.parametrize(
    ("target", "path", "body"),
    [
        ("ann/fox", "/v1/predictions", {"version": "ann/fox"}),
        (f"ann/fox:{ID}", "/v1/predictions", {"version": f"ann/fox:{ID}"}),
        ("deployments/acme/app", "/v1/deployments/acme/app/predictions", {}),
    ],
)
@in_virtual_time
async def test_a_body_names_what_runs_at_most_once(target, path, body):
    upstream = Refusing(201, {"id": "p1", "status": "starting"})
    await created(upstream, target)

    hooks = {"webhook": "https://here.test/webhooks/replicate", "webhook_events_filter": ["completed"]}
    assert [(path, {"input": SENT} | hooks | body)] == upstream.sent


@in_virtual_time
async def test_secrets_are_sent_among_the_inputs_and_no_webhook_may_repeat_them():
    upstream = Refusing(201, {"id": "p1", "status": "starting"})
    made = await created(upstream, "ann/fox", secrets={"hf_token": SECRET})

    assert [{"input": SENT | {"hf_token": SECRET}, "version": "ann/fox"}] == [
        each for _, each in upstream.sent
    ]
    assert not made.prediction.is_announced


@pytest.mark.parametrize("target", ["ann/fox", f"ann/fox:{ID}", "deployments/acme/app"])
@in_virtual_time
async def test_the_throttle_of_low_credit_is_waited_for_and_not_final(target):
    throttled = await created(Refusing(429, LOW_CREDIT), target)

    assert isinstance(throttled, TryAgain)
    assert (True, 10.0, UpstreamRateLimited) == (
        throttled.throttled,
        throttled.wait,
        type(throttled.error),
    )


@in_virtual_time
async def test_a_404_that_is_not_replicates_own_says_nothing_of_the_target():
    assert isinstance(await created(Refusing(404, {"error": "no route"}), "ann/fox"), TryAgain)


@in_virtual_time
async def test_an_input_that_is_refused_is_no_problem_of_the_target():
    invalid = {"title": "Input validation failed", "detail": f"- input.seed: {SECRET} is no integer"}
    refused = await created(Refusing(422, invalid), f"ann/fox:{ID}", secrets={"hf_token": SECRET})

    assert isinstance(refused, InvalidRequest)
    assert ["input"] == [each.field for each in refused.problems]


@in_virtual_time
async def test_a_secret_input_is_removed_from_a_refusal_and_from_a_prediction_and_is_not_logged():
    invalid = {
        "title": "Input validation failed",
        "detail": f"401 for {SECRET}",
        "invalid_fields": [{"field": "input.hf_token", "description": f"{SECRET} is no token"}],
    }
    made = {"id": "p1", "status": "failed", "error": f"401 for {SECRET}", "input": {"hf_token": SECRET}}
    with capture_logs() as logs:
        refused = await created(Refusing(422, invalid), "ann/fox", secrets={"hf_token": SECRET})
        answered = await created(Refusing(201, made), "ann/fox", secrets={"hf_token": SECRET})

    assert f"{REDACTED} is no token" == refused.problems[0].message
    assert f"401 for {REDACTED}" == answered.prediction.error
    assert SECRET not in repr((refused, refused.as_item(), answered, logs))
