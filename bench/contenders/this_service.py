"""This service, as a caller uses it: one request, and a line of the response for each finished picture.

The service is at `SERVICE_URL`. Its own settings limit the predictions in flight.
"""

import json
import os
import time

import requests

from bench.contenders.task import MODEL, Picture, Task, run_task


def _make(task: Task) -> list[Picture]:
    answer = requests.post(
        f"{os.environ['SERVICE_URL']}/generate-batch",
        json={"model_name": MODEL, "prompts": task.prompts},
        headers={
            "X-Replicate-API-Key": os.environ["REPLICATE_API_TOKEN"],
            "Accept": "application/x-ndjson",
        },
        stream=True,
        timeout=60,
    )
    answer.raise_for_status()
    results = (json.loads(line) for line in answer.iter_lines())
    return [Picture(each["output"][0], time.time()) for each in results if each.get("output")]


if __name__ == "__main__":
    run_task(_make)
