"""Weights of trainings at the simulator: the real check, over real connections, in each place of the settings."""

from contextlib import asynccontextmanager

import pytest

import assembly
from datasets.weights import check_weights
from files.download import RetryPolicy
from files.hosts import OutputHosts
from files.weights import WeightsStore, WeightsUnavailable
from files.weights_directory import WeightsDirectory
from simulator import Options, running
from tests.support.output_hosts import content, names
from tests.support.wiring import on_a_loop, settings
from tests.unit.simulator.conftest import Caller
from tests.unit.simulator.creations import IMAGES, OSTRIS, QWEN

TRN = "trn_" + "0123456789abcdef" * 2
TOKEN = "r8_of_the_caller"
POSTGRES = {"DATABASE_URL": "postgresql://nowhere/ledger", "PUBLIC_URL": "https://service.example"}


@pytest.fixture
def trained():
    """Trains at a simulator that serves weights only with the token of their account. Returns the simulator and the URL
    of the weights."""
    options = Options(training_seconds=0.01, jitter=0, weights_need_token=True)
    with running(options) as simulator:
        caller = Caller(simulator.url, TOKEN)

        def train(trainer=OSTRIS, images="input_images", trigger_word="TOK"):
            inputs = {images: caller.upload(IMAGES), "trigger_word": trigger_word}
            made = caller.train(trainer, caller.destination(), **inputs).json()
            return simulator, caller.training(made)["output"]["weights"]

        yield train
        caller.session.close()


@asynccontextmanager
async def quick(directory, simulator):
    store = WeightsStore(
        storage=WeightsDirectory(directory),
        spool=directory,
        source=OutputHosts(simulator.url),
        check=check_weights,
        retry_policy=RetryPolicy(max_attempts=10, first_backoff=0.001),
    )
    try:
        yield store
    finally:
        await store.aclose()


@pytest.mark.parametrize(
    ("trainer", "images", "file"),
    [(OSTRIS, "input_images", "trained_model.tar"), (QWEN, "dataset", "output.zip")],
)
@on_a_loop
async def test_the_weights_of_a_training_are_kept_whole(trained, tmp_path, trainer, images, file):
    simulator, url = trained(trainer, images)
    store = assembly.open_weights(
        settings(REPLICATE_BASE_URL=simulator.url, REPLICATE_SIMULATE=1, DATA_DIR=tmp_path)
    )
    found = await store.keep(TRN, url, token=TOKEN)
    served = content(store.open(TRN, found.name))
    await store.aclose()

    assert (url.rpartition("/")[2], len(served)) == (found.name, found.size)
    assert check_weights(tmp_path / "weights" / TRN / found.name).tensors > 0
    assert file.rpartition(".")[2] == found.name.rpartition(".")[2]


@pytest.mark.parametrize(
    "fault", [{"truncate": True}, {"garbage": True}, {"status": 503}, {"reset": "before"}]
)
@on_a_loop
async def test_weights_that_do_not_arrive_whole_are_downloaded_again(trained, tmp_path, fault):
    simulator, url = trained()
    simulator.inject(on="weights", times=2, **fault)
    async with quick(tmp_path, simulator) as store:
        found = await store.keep(TRN, url, token=TOKEN)

    assert check_weights(tmp_path / TRN / found.name).size == found.size


@pytest.mark.parametrize("fault", ["[[cut]]", "[[torn]]"])
@on_a_loop
async def test_weights_that_stay_broken_are_unavailable_with_the_reason(trained, tmp_path, fault):
    simulator, url = trained(trigger_word=fault)
    async with quick(tmp_path, simulator) as store:
        with pytest.raises(WeightsUnavailable, match=r"^it is broken: ") as caught:
            await store.keep(TRN, url, token=TOKEN)

    assert {"[[cut]]": "cut short", "[[torn]]": "safetensors"}[fault] in str(caught.value)
    assert [] == list(tmp_path.iterdir())


@on_a_loop
async def test_the_token_of_another_account_does_not_get_them(trained, tmp_path):
    simulator, url = trained()
    async with quick(tmp_path, simulator) as store:
        with pytest.raises(WeightsUnavailable, match="its host answered 401"):
            await store.keep(TRN, url, token="r8_of_another")


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({}, "data"),
        ({"FILES_DIR": "outputs"}, "data"),
        ({"FILES_SHARED": 1, "FILES_DIR": "outputs"}, "data"),
        (POSTGRES | {"FILES_TTL": 0}, "data"),
        (POSTGRES | {"FILES_SHARED": 1, "FILES_DIR": "outputs"}, "outputs"),
    ],
)
@on_a_loop
async def test_weights_are_where_all_instances_reach_them_or_in_the_data_directory(
    trained, tmp_path, changes, place
):
    simulator, url = trained()
    changes = {name: tmp_path / value if name == "FILES_DIR" else value for name, value in changes.items()}
    store = assembly.open_weights(
        settings(REPLICATE_BASE_URL=simulator.url, DATA_DIR=tmp_path / "data", **changes)
    )
    found = await store.keep(TRN, url, token=TOKEN)
    await store.aclose()

    kept = [str(each.relative_to(tmp_path)) for each in tmp_path.rglob("*") if each.is_file()]
    assert [f"{place}/weights/{TRN}/{found.name}"] == kept


@on_a_loop
async def test_with_a_bucket_weights_are_in_it_and_no_file_stays_here(trained, tmp_path, s3, monkeypatch):
    simulator, url = trained()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    chosen = settings(
        REPLICATE_BASE_URL=simulator.url,
        DATA_DIR=tmp_path,
        FILES_URL=f"s3://{s3.make()}/kept",
        AWS_ACCESS_KEY_ID="id",
        AWS_SECRET_ACCESS_KEY="secret",
        AWS_REGION="us-east-1",
        AWS_ENDPOINT_URL=s3.url,
    )
    store = assembly.open_weights(chosen)
    found = await store.keep(TRN, url, token=TOKEN)
    served = content(store.open(TRN, found.name))
    await store.aclose()

    assert found.size == len(served)
    assert [] == [each for each in tmp_path.rglob("*") if each.is_file()]
    assert ([], [f"{TRN}/{found.name}"]) == (
        names(assembly.storage(chosen)),
        names(assembly.storage(chosen).weights()),
    )
