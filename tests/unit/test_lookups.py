"""Models, versions and deployments are looked up at Replicate, with one request of the other window each."""

import json

import httpx
import pytest

from auth import Caller, credentials
from errors import ServerTokenRejected, ServiceError, TokenRejected, UpstreamError, UpstreamRateLimited
from providers.models import ListedVersion, ModelFacts
from simulator import Options as SimulatorOptions
from tests.support.connections import FakeConnections
from tests.support.virtual_replicate import replicate
from tests.support.virtual_time import in_virtual_time, run
from tests.support.wiring import ADMIN, USER, parts
from tests.unit.test_model_facts import ID, MODEL, SCHEMA

NOT_FOUND = {"detail": "The requested resource could not be found.", "status": 404}
RELEASE = {"model": "ann/fox", "version": ID}
HAS = {
    "/v1/models/ann/fox": MODEL,
    f"/v1/models/ann/fox/versions/{ID}": {"id": ID, "openapi_schema": SCHEMA},
    "/v1/models/ann/fox/versions": {"next": "http://replicate.test/more", "results": [{"id": ID}]},
    "/v1/deployments/acme/app": {"owner": "acme", "name": "app", "current_release": RELEASE},
    "/v1/search": {"models": [{"model": MODEL}]},
    "/v1/account": {"type": "user", "username": "ann"},
}


class Replicate(FakeConnections):
    """A Replicate that has these models. `refuses` are answers by path that replace its own."""

    def __init__(self, **refuses: tuple[int, object]) -> None:
        self._refuses = refuses
        self.seen: list[str] = []

    async def respond(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        self.seen.append(str(request.url).removeprefix("http://replicate.test"))
        kind = path.split("/")[2]
        if kind in self._refuses:
            status, body = self._refuses[kind]
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            if status == 0:
                raise httpx.ReadError("reset")
            return httpx.Response(status, content=content)
        found = HAS.get(path)
        if isinstance(found, bytes):
            return httpx.Response(200, content=found)
        return httpx.Response(200, json=found) if found else httpx.Response(404, json=NOT_FOUND)


async def looked_up(upstream, act, caller=ADMIN):
    """The outcome of `act(provider, caller)`, and the requests that it took of the other window."""
    async with parts("http://replicate.test", connections=upstream) as service:
        try:
            outcome = await act(service.provider, caller)
        except ServiceError as error:
            outcome = error
        used = service.others.statistics()
        assert (0, 0) == (used.current_concurrent, used.waiting)
        return outcome, used.current_rate_per_minute


LOOKUPS = {
    "models": lambda provider, caller: provider.find_model(caller, "ann/fox"),
    "deployments": lambda provider, caller: provider.find_deployment(caller, "acme/app"),
    "search": lambda provider, caller: provider.search_models(caller, "fox & hound"),
}


@in_virtual_time
async def test_each_lookup_is_one_request():
    upstream = Replicate()
    model, first = await looked_up(upstream, LOOKUPS["models"])
    version, second = await looked_up(upstream, lambda each, who: each.find_version(who, "ann/fox", ID))
    versions, fifth = await looked_up(upstream, lambda each, who: each.find_versions(who, "ann/fox"))
    deployment, third = await looked_up(upstream, LOOKUPS["deployments"])
    found, fourth = await looked_up(upstream, LOOKUPS["search"])

    assert ("ann/fox", ID, SCHEMA) == (model.name, model.version, model.schema)
    assert ("ann/fox", ID, SCHEMA) == (version.name, version.version, version.schema)
    assert ("deployments/acme/app", ("ann/fox", ID)) == (deployment.name, deployment.release)
    assert ["ann/fox"] == [each.name for each in found]
    assert [ListedVersion(ID)] == versions
    assert [1] * 5 == [first, second, third, fourth, fifth]
    assert [*list(HAS)[:4], "/v1/search?query=fox+%26+hound"] == upstream.seen


@in_virtual_time
async def test_what_replicate_does_not_have_is_none():
    upstream = Replicate()
    for lookup in (
        lambda each, who: each.find_model(who, "ann/vixen"),
        lambda each, who: each.find_version(who, "ann/fox", "0" * 64),
        lambda each, who: each.find_versions(who, "ann/vixen"),
        lambda each, who: each.find_deployment(who, "acme/other"),
    ):
        assert (None, 1) == await looked_up(upstream, lookup)


@in_virtual_time
async def test_a_name_that_fits_into_no_path_is_not_asked_for():
    upstream = Replicate()
    for lookup in (
        lambda each, who: each.find_model(who, "../account"),
        lambda each, who: each.find_model(who, "fox"),
        lambda each, who: each.find_version(who, "ann/fox", "c6b5d2b7"),
        lambda each, who: each.find_version(who, "ann/../fox", ID),
        lambda each, who: each.find_versions(who, "ann/../fox"),
        lambda each, who: each.find_deployment(who, "acme/app/predictions"),
    ):
        assert (None, 0) == await looked_up(upstream, lookup)
    assert [] == upstream.seen


PAGE = b"<html>404</html>"


@pytest.mark.parametrize("kind", LOOKUPS)
@pytest.mark.parametrize(
    ("status", "body", "error", "retryable"),
    [
        (404, PAGE, UpstreamError, True),
        (500, {}, UpstreamError, True),
        (503, PAGE, UpstreamError, True),
        (0, {}, UpstreamError, True),
        (200, b"{", UpstreamError, True),
        (200, [], UpstreamError, True),
        (429, {"detail": "Request was throttled."}, UpstreamRateLimited, True),
        (403, {"detail": "You do not have permission."}, UpstreamError, False),
        (200, b"[" + b"1," * 600_000 + b"1]", UpstreamError, False),
        (200, b"[" * 200_000, UpstreamError, False),
    ],
)
@in_virtual_time
async def test_any_other_answer_is_a_service_error(kind, status, body, error, retryable):
    outcome, _ = await looked_up(Replicate(**{kind: (status, body)}), LOOKUPS[kind])

    assert (error, retryable) == (type(outcome), outcome.retryable)


@pytest.mark.parametrize("kind", LOOKUPS)
@pytest.mark.parametrize(("caller", "error"), [(USER, TokenRejected), (ADMIN, ServerTokenRejected)])
@in_virtual_time
async def test_a_token_that_replicate_rejects_everywhere_is_rejected(kind, caller, error):
    unauthenticated = (401, {"title": "Unauthenticated", "detail": "Invalid token"})
    upstream = Replicate(account=unauthenticated, **{kind: unauthenticated})

    outcome, _ = await looked_up(upstream, LOOKUPS[kind], caller)

    assert error is type(outcome)


def test_a_private_model_is_found_by_the_tokens_that_can_read_it_alone():
    async def scenario():
        acme = Caller("user", "user_acme", credentials(replicate="r8_acme"))
        async with replicate(SimulatorOptions()) as (service, _):
            return [
                await service.provider.find_model(caller, "acme/confidential") for caller in (acme, ADMIN)
            ]

    found, hidden = run(scenario())
    assert ("acme/confidential", True, False, None) == (
        found.name,
        found.is_private,
        found.is_official,
        hidden,
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"[" + b"1," * 600_000 + b"1]", "the answer has too many values."),
        (b"[" * 200_000 + b"]" * 200_000, "the answer is nested too deeply."),
    ],
)
@in_virtual_time
async def test_a_version_with_too_large_an_answer_exists_and_its_schema_is_unread(monkeypatch, body, reason):
    monkeypatch.setitem(HAS, f"/v1/models/ann/fox/versions/{ID}", body)
    found, _ = await looked_up(Replicate(), lambda each, who: each.find_version(who, "ann/fox", ID))

    assert ModelFacts("ann/fox", ID, reason) == found
