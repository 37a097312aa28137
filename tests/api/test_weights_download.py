"""How trained weights are served: as a download with ranges and validators, and for its owner only."""

import asyncio

import pytest

from api import files
from files.weights import WeightsStore
from files.weights_directory import WeightsDirectory
from tests.support.output_hosts import FakeSource
from tests.support.problem_documents import problem

TRN = "trn_" + "0123456789abcdef" * 2
WHOLE = bytes(range(256)) * 4000
NAME = f"/weights/{TRN}/flux-lora.tar"


@pytest.fixture
def client(make_app, tmp_path):
    """A client of a service with a route for the weights of one training, which any caller may use."""

    async def kept():
        storage = WeightsDirectory(tmp_path / "kept")
        store = WeightsStore(
            storage=storage, spool=tmp_path / "kept", source=FakeSource(WHOLE), check=lambda _: None
        )
        await store.keep(TRN, "https://replicate.delivery/flux-lora.tar")
        return store

    store = asyncio.run(kept())
    app = make_app()
    app.add_url_rule(
        "/weights/<training_id>/<name>",
        view_func=lambda training_id, name: files.weights(store, training_id, name),
    )
    yield app.test_client()
    asyncio.run(store.aclose())


def test_weights_are_a_download_under_their_name(client):
    with client.get(NAME) as answer:
        assert (200, WHOLE) == (answer.status_code, answer.data)
        assert "application/x-tar" == answer.headers["Content-Type"]
        assert "attachment; filename=flux-lora.tar" == answer.headers["Content-Disposition"]
        assert str(len(WHOLE)) == answer.headers["Content-Length"]


def test_an_interrupted_download_is_continued(client):
    with client.get(NAME) as answer:
        etag = answer.headers["ETag"]
    with client.get(NAME, headers={"Range": "bytes=1000-", "If-Range": etag}) as answer:
        assert (206, WHOLE[1000:]) == (answer.status_code, answer.data)
        assert f"bytes 1000-{len(WHOLE) - 1}/{len(WHOLE)}" == answer.headers["Content-Range"]

    problem(client.get(NAME, headers={"Range": f"bytes={len(WHOLE)}-"}), 416, "range_not_satisfiable")


def test_a_copy_of_the_client_is_confirmed_and_no_cache_in_between_keeps_one(client):
    with client.get(NAME) as answer:
        etag = answer.headers["ETag"]
        assert "private, no-cache" == answer.headers["Cache-Control"]
    with client.get(NAME, headers={"If-None-Match": etag}) as answer:
        assert (304, b"", "private, no-cache") == (
            answer.status_code,
            answer.data,
            answer.headers["Cache-Control"],
        )


@pytest.mark.parametrize(
    "name",
    [
        f"{TRN}/other.tar",
        f"{TRN}/..%2f{TRN}%2fflux-lora.tar",
        f"{TRN}/flux-lora.tar%00",
        f"{TRN}/.part",
        f"trn_{'f' * 32}/flux-lora.tar",
        f"gen_{'f' * 32}/flux-lora.tar",
        "%2e%2e/flux-lora.tar",
    ],
)
def test_any_other_name_is_not_found(client, name):
    problem(client.get(f"/weights/{name}"), 404, "not_found")
