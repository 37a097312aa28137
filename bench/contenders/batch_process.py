"""The package `replicate-batch-process`, called as its README recommends for many prompts for one model.

- It works in threads of the loop's default executor (see `threads.py`), so a `max_concurrent` above the number of
cores plus four has no effect. - It downloads each picture. The other contenders leave that to their caller. - After
any error it calls another model, in up to four calls, and at last makes a black image of 1600 by 900. It returns
either as a success. Its calls of flux-dev request a square and those of the other model do not, which identifies a
requested picture from a substitute. - It reads the nearest `.env` above its place of installation. The environment has
priority, so the bench, which sets Replicate's address and token there, cannot reach the real Replicate.
"""

import asyncio
import os
from contextlib import redirect_stdout
from pathlib import Path

from PIL import Image
from replicate_batch_process import intelligent_batch_process  # the original, installed in .venv-bench

from bench.contenders.task import MODEL, Picture, Substitute, Task, run_task


def _make(task: Task) -> list[Picture | Substitute]:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # it prints a lot
        files = asyncio.run(
            intelligent_batch_process(prompts=task.prompts, model_name=MODEL, max_concurrent=task.slots)
        )
    return [Picture() if _is_square(file) else Substitute() for file in files]


def _is_square(file: str) -> bool:
    with Image.open(file) as image:
        return image.width == image.height


if __name__ == "__main__":
    run_task(_make)
