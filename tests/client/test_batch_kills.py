"""No kill of the client or of the service loses a row of a batch, makes one twice, or gives a file a wrong name."""

import pytest

from harness.killed_batch import KilledBatch
from simulator import Options, running

pytestmark = pytest.mark.slow

ROWS = 100


def test_ten_kills_of_the_client_and_three_of_the_service_lose_and_repeat_no_row(tmp_path):
    prompts = [f"picture {number}" for number in range(1, ROWS + 1)]
    with running(Options(prediction_seconds=0.5, jitter=0.5, seed=1)) as simulator:
        batch = KilledBatch(simulator, tmp_path, prompts, REPLICATE_CONCURRENT_LIMIT=5)
        report = batch.run(client_kills=10, service_kills=3, seed=1, longest=1.0)

    assert (3, 0) == (report.service_kills, report.exit_status)
    assert [f"{number:04d}-picture-{number}.jpg" for number in range(1, ROWS + 1)] == report.names
    assert (ROWS, {}) == (report.predictions, report.repeated)
    assert [] == report.foreign
