"""Processes on one PostgreSQL look a model up once for all of them, however many callers ask at once."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from harness.fleet import ADMIN, running_fleet
from simulator import Options, running

pytestmark = pytest.mark.slow

MODELS = 20
CALLS = 1000
SCHEMA = {
    "components": {
        "schemas": {
            "Input": {"type": "object", "properties": {"img": {"type": "string", "format": "uri"}}},
            "Output": {"type": "string", "format": "uri"},
        }
    }
}


def test_a_thousand_calls_of_twenty_models_over_three_processes_are_twenty_lookups(own_server):
    with (
        running(Options(prediction_seconds=0.05, jitter=0.0)) as simulator,
        running_fleet(3, own_server, REPLICATE_BASE_URL=simulator.url) as fleet,
    ):
        for number in range(MODELS):
            version = {"id": f"{number:064x}", "openapi_schema": SCHEMA}
            simulator.publish({"owner": "many", "name": f"model-{number}", "latest_version": version})
        addresses = [member.running.url for member in fleet.members]

        def call(number: int) -> int:
            body = {"model_name": f"many/model-{number % MODELS}", "input": {}, "dry_run": True}
            return requests.post(
                f"{random.choice(addresses)}/generate", json=body, headers=ADMIN, timeout=60
            ).status_code

        with ThreadPoolExecutor(30) as threads:
            statuses = set(threads.map(call, range(CALLS)))

        assert {200} == statuses
        assert MODELS == simulator.counts().lookups
