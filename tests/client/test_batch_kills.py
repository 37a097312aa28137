"""No kill of the client or of the service loses a row of a batch, makes one twice, or gives a file a wrong name."""

import pytest

from harness.killed_batch import KilledBatch
from simulator import Options, running

pytestmark = pytest.mark.slow

ROWS = 100


def test_five_kills_of_the_client_and_two_of_the_service_lose_and_repeat_no_row(tmp_path):
    """`make bench` does the same with 30 kills and 10."""
    prompts = [f"picture {number}" for number in range(1, ROWS + 1)]
    with running(Options(prediction_seconds=0.5, jitter=0.5, seed=1)) as simulator:
        batch = KilledBatch(simulator, tmp_path, prompts, REPLICATE_CONCURRENT_LIMIT=5)
        report = batch.run(client_kills=5, service_kills=2, seed=1, longest=1.0)

    assert (2, 0) == (report.service_kills, report.exit_status)
    assert [f"{number:04d}-picture-{number}.jpg" for number in range(1, ROWS + 1)] == report.names
    assert (ROWS, {}) == (report.predictions, report.repeated)
    assert [] == report.foreign
