"""The package `replicate-batch-process`, called as its README has many prompts for one model called.

- It works in threads of the loop's default executor (see `threads.py`), so `max_concurrent` beyond four more
  than the machine has cores changes nothing.
- It downloads each picture, which the others leave to their caller.
- When a call fails, for whatever reason, it asks another model, up to four calls in all, and at last paints a
  black image of 1600 by 900 itself. It returns either as a success. Its calls of flux-dev ask for a square and
  those of the other model do not, which is how one tells what was asked for from a substitute.
- It reads the nearest `.env` above the place where it is installed. What the environment says goes before
  that, so the bench, which says where Replicate is and whose token pays, reaches nobody else.
"""

import asyncio
import os
from contextlib import redirect_stdout
from pathlib import Path

from PIL import Image
from replicate_batch_process import (  # type: ignore[import-not-found] # lives in .venv-bench
    intelligent_batch_process,
)

from bench.contenders.task import MODEL, Picture, Substitute, Task, carry_out


def _make(task: Task) -> list[Picture | Substitute]:
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):  # it has much to say
        files = asyncio.run(
            intelligent_batch_process(prompts=task.prompts, model_name=MODEL, max_concurrent=task.slots)
        )
    return [Picture() if _is_square(file) else Substitute() for file in files]


def _is_square(file: str) -> bool:
    with Image.open(file) as image:
        return image.width == image.height


if __name__ == "__main__":
    carry_out(_make)
