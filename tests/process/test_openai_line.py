"""Through a line that drops answers, clients of the OpenAI door retry, and no picture is made twice or shared."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import openai
import pytest

from harness.postgres import server
from harness.service_process import running_service
from simulator import Options, running
from tests.support.callers import USER_TOKEN
from tests.support.dropping_line import dropping_line

pytestmark = pytest.mark.slow

CALLS, AT_ONCE = 200, 40
LIMITS = {"REPLICATE_CONCURRENT_LIMIT": 100, "REPLICATE_REQUESTS_PER_MINUTE": 60_000}


@contextmanager
def fast():
    """A simulator with predictions of 50 ms."""
    options = Options(prediction_seconds=0.05, creations_per_minute=60_000, others_per_minute=60_000)
    with running(options) as simulator:
        yield simulator


@contextmanager
def processes(engine, tmp_path, simulator):
    """The ports of one process on SQLite, or of two on PostgreSQL."""
    settings = LIMITS | {
        "REPLICATE_BASE_URL": simulator.url,
        "DATA_DIR": tmp_path,
        "REPLICATE_API_TOKEN": "r8_server",
    }
    with ExitStack() as stack:
        number = 1
        if engine == "postgresql":
            schema = stack.enter_context(server().schema())
            settings |= {
                "DATABASE_URL": server().url(schema=schema),
                "FILES_SHARED": 1,
                "PUBLIC_URL": "http://here",
            }
            number = 2
        yield [stack.enter_context(running_service(**settings)).port for _ in range(number)]


@pytest.mark.parametrize(("engine", "whole"), [("sqlite", True), ("postgresql", False), ("postgresql", True)])
def test_200_calls_through_a_line_that_drops_answers_are_at_most_200_predictions(engine, whole, tmp_path):
    with (
        fast() as simulator,
        processes(engine, tmp_path, simulator) as ports,
        dropping_line(ports, whole=whole) as line,
        openai.OpenAI(base_url=f"{line.url}/v1", api_key=USER_TOKEN, max_retries=5) as client,
        ThreadPoolExecutor(AT_ONCE) as callers,
    ):
        prompts = ["A lighthouse" if number % 2 else f"Lighthouse {number}" for number in range(CALLS)]
        calls = [callers.submit(client.images.generate, model="flux-dev", prompt=each) for each in prompts]
        made = [each.result() for each in calls]

        assert CALLS == len({each.data[0].url for each in made})
        assert CALLS == len({each.id for each in made})
        assert line.dropped > CALLS / 10
        assert CALLS >= simulator.counts().creations_accepted


def test_clients_that_close_their_connections_share_no_picture(tmp_path):
    def generate(url):
        with openai.OpenAI(base_url=f"{url}/v1", api_key=USER_TOKEN, max_retries=5) as client:
            return client.images.generate(model="flux-dev", prompt="A lighthouse").id

    with (
        fast() as simulator,
        processes("sqlite", tmp_path, simulator) as ports,
        dropping_line(ports) as line,
        ThreadPoolExecutor(10) as callers,
    ):
        made = [each.result() for each in [callers.submit(generate, line.url) for _ in range(50)]]

    assert 50 == len(set(made))
