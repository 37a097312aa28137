"""What a run expects, from the dry runs of its requests, and when it asks."""

from pathlib import Path

import httpx
import pytest
from replicate_concurrent import Client
from replicate_concurrent.batches import planning
from replicate_concurrent.batches.rows import Row
from replicate_concurrent.cli.batch_run import question

ROWS = [
    Row(number, f"item {number}", {"model_name": "m", "images": [Path(__file__)] * 400}, "d")
    for number in (1, 2)
]
"""Each is too large for the request of the other."""


def forecast(*plans, **options):
    """The forecast for rows of which each is a request of its own."""
    answers = iter(plans)

    def answered(_):
        return httpx.Response(200, json={"total": 1, **next(answers)})

    with (
        httpx.Client(transport=httpx.MockTransport(answered)) as http,
        Client("http://service.test", "rcg_secret", http=http) as client,
    ):
        return planning.forecast(client, ROWS[: len(plans)], options)


@pytest.mark.parametrize(
    ("strategies", "strategy"),
    [
        (["queue", "immediate"], "queue"),
        (["window", "immediate"], "window"),
        (["auction", "queue"], "auction"),
    ],
)
def test_the_slowest_strategy_is_shown_and_one_of_a_newer_service_as_it_is(strategies, strategy):
    assert strategy == forecast(*({"strategy": each} for each in strategies)).strategy


def test_a_limit_of_the_cost_holds_for_all_requests_together():
    bounds = [{"cost_bound_usd": each} for each in (0.1, 0.2)]

    assert 2 == forecast(*bounds, max_cost_usd=0.3).total
    with pytest.raises(planning.RowsRefused, match=r"may cost 0\.3 USD, above the limit of 0\.29 USD"):
        forecast(*bounds, max_cost_usd=0.29)


def test_nothing_new_has_no_strategy():
    assert "" == forecast().strategy


@pytest.mark.parametrize(
    ("bounds", "ask_above", "asked"),
    [
        ([2.0, 3.0], 5.0, ""),
        ([2.0, 3.5], 5.0, "This may cost 5.5 USD."),
        ([2.0, None], 5.0, "The cost of 1 rows is not known."),
        ([6.0, None], 5.0, "This may cost 6 USD. The cost of 1 rows is not known."),
        ([None, None], None, ""),
    ],
)
def test_it_asks_above_an_amount_and_if_the_cost_is_not_known(bounds, ask_above, asked):
    assert asked == question(forecast(*({"cost_bound_usd": each} for each in bounds)), ask_above)
