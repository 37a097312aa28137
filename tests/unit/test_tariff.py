"""The operator's prices: PRICES_FILE, and models without a price."""

import json
from dataclasses import replace

import pytest

import assembly
from catalog.prices import Price, Rate
from catalog.tariff import PUBLISHED, Tariff, read_prices
from settings import SettingsError
from tests.support.declarations import REGISTRY, find
from tests.support.wiring import settings

PRICES = """
flux-dev = {usd = 0.02, per = "image"}
"acme/upscaler" = {usd = 0.01, per = "image", each = {references = 0.002}}
"deployments/acme/portraits" = {usd = 0.0014, per = "running_second"}

["acme/films"]
per = "second"
units = "length"
by = [{usd = 0.07, when = {resolution = ["360p", "480p"]}}, {usd = 0.17, when = {resolution = "720p"}}]
"""


@pytest.fixture
def read(tmp_path):
    def read_text(text, name="prices.toml"):
        path = tmp_path / name
        path.write_text(text)
        return read_prices(path, REGISTRY)

    return read_text


@pytest.fixture
def refused(read):
    def sentences(text, name="prices.toml"):
        with pytest.raises(SettingsError) as wrong:
            read(text, name)
        return str(wrong.value).splitlines()

    return sentences


def test_the_file_gives_prices_to_models_and_deployments(read):
    assert {
        "black-forest-labs/flux-dev": Price(0.02, "image"),
        "acme/upscaler": Price(0.01, "image", each={"references": 0.002}),
        "deployments/acme/portraits": Price(0.0014, "running_second"),
        "acme/films": Price(
            0.17,
            "second",
            (Rate(0.07, {"resolution": ["360p", "480p"]}), Rate(0.17, {"resolution": "720p"})),
            "length",
        ),
    } == read(PRICES)


def test_the_file_may_be_json(read):
    assert {"acme/x": Price(1, "call")} == read(
        json.dumps({"acme/x": {"usd": 1, "per": "call"}}), "prices.json"
    )


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "flux-devv = {usd = 1, per = 'image'}",
            "flux-devv is neither owner/name nor deployments/owner/name",
        ),
        ("'acme/x:1234' = {usd = 1, per = 'image'}", "acme/x:1234 is neither"),
        ("'acme/x' = {usd = -1, per = 'image'}", "acme/x: usd is not what it should be"),
        ("'acme/x' = {usd = inf, per = 'image'}", "acme/x: usd is not what it should be"),
        ("'acme/x' = {usd = '1', per = 'image'}", "acme/x: usd is not what it should be"),
        ("'acme/x' = {usd = 1, per = 'picture'}", "acme/x: per is not what it should be"),
        ("'acme/x' = {usd = 1}", "acme/x: per is not what it should be"),
        ("'acme/x' = {per = 'image'}", "acme/x: usd is missing"),
        ("'acme/x' = 3", "acme/x: the price is not what it should be"),
        ("'acme/x' = {usd = 1, per = 'image', for = 3}", "acme/x: for is not what it should be"),
        ("'acme/x' = {per = 'image', by = [{usd = 1, when = {}}]}", "acme/x: by 0 when is not"),
        ("flux-dev = {usd = 1, per = 'second'}", "flux-dev: no input says how many units are made"),
        ("flux-dev = {usd = 1, per = 'second', units = 'beats'}", "flux-dev: flux-dev has no input beats"),
        (
            "flux-dev = {per = 'image', by = [{usd = 1, when = {sound = true}}]}",
            "flux-dev: flux-dev has no input sound",
        ),
        (
            "flux-dev = {usd = 1, per = 'call'}\n'black-forest-labs/flux-dev' = {usd = 1, per = 'call'}",
            "black-forest-labs/flux-dev is another name of black-forest-labs/flux-dev",
        ),
    ],
)
def test_a_mistake_in_the_file_is_named(refused, line, said):
    [sentence] = refused(line)

    assert sentence.startswith(f"PRICES_FILE: {said}")


def test_all_mistakes_are_listed(refused):
    assert 3 == len(refused("a = 1\n'acme/x' = {usd = -1, per = 'picture'}"))


def test_a_file_that_cannot_be_read_is_named(refused):
    assert refused("[")[0].startswith("PRICES_FILE: ")
    assert refused("[]", "prices.json")[0].endswith("must be a table of models.")


def test_the_operators_price_comes_before_the_declared_one(tmp_path):
    path = tmp_path / "prices.toml"
    path.write_text(PRICES)
    registry = assembly.registry(settings(PRICES_FILE=path))

    assert 0.02 == registry.find("flux-dev").cost({"prompt": "a"})
    assert 0.003 == registry.find("flux-schnell").cost({"prompt": "a"})
    assert find("flux-schnell") is registry.find("flux-schnell")


def test_a_model_without_a_price_gets_the_rate_of_the_setting():
    tariff = assembly.tariff(settings(UNPRICED_USD_PER_SECOND=0.0001))
    model = tariff.priced(replace(find("flux-dev"), price=None))

    assert 0.06 == model.bound({"prompt": "a"}, longest=600)
    assert {"usd_per_running_second": 0.0001, "bills_setup_and_idle": False} == model.as_json()["unpriced"]
    assert model.as_json()["price"] is None


def test_a_deployment_gets_the_price_of_its_name():
    tariff = Tariff({"deployments/acme/x": Price(0.0014, "running_second")})
    model = tariff.priced(replace(find("flux-dev"), name="deployments/acme/x", price=None, bills_setup=True))

    assert 0.84 == model.bound({"prompt": "a"}, longest=600)
    assert ("bounded", "declared") == (model.basis(), model.basis({"total_time": 3.0}))


def test_the_published_prices_change_no_model():
    assert all(PUBLISHED.priced(model) is model for model in REGISTRY.models)
