"""The log of a training, in the form that the real trainers write.

Loading, captioning and caching have bars of their own that reach 100 %, before the bar of the training starts. A bar
has the form of tqdm:

    flux_train_replicate:  83%|████████▎ | 2482/3000 [43:27<09:04,  1.05s/it, lr: 4.0e-04 loss: 2.472e-01]
"""

import math
from collections.abc import Iterator

from simulator.model import Trainer

LABEL = "flux_train_replicate"

_LINES = 100
_PREPARED = 0.15
"""The share of the run before the first step."""

_LABELS = {"flux": LABEL, "qwen": "qwen_train_replicate", "sdxl": "Steps"}
_EIGHTHS = " ▏▎▍▌▋▊▉"


def lines(
    trainer: Trainer,
    *,
    images: int,
    steps: int,
    captions: bool,
    rate: float,
    share: float,
    seconds: float,
) -> Iterator[str]:
    """The lines of a log so far.

    Args:
        trainer: What the trainer makes.
        images: The number of images.
        steps: The number of steps.
        captions: Whether it writes captions.
        rate: The learning rate.
        share: The finished share of the run, from 0 to 1.
        seconds: How long the whole run takes.
    """
    yield f"Extracted {images} files from zip to input_images"
    bars = [("Loading pipeline components...", 7), ("Captioning images", images), ("Caching latents", images)]
    if not captions:
        del bars[1]
    prepared = share / _PREPARED * len(bars)
    for number, (label, total) in enumerate(bars):
        if prepared < number:
            return
        for count in _counts(total, min(1.0, prepared - number)):
            yield bar(label, count, total, seconds * _PREPARED / len(bars) * count / max(1, total))
    if share < _PREPARED:
        return
    yield "Turning gradient checkpointing on and quantizing base model, GPU has less than 100 GB of memory"
    for count in _counts(steps, (share - _PREPARED) / (1 - _PREPARED)):
        loss = 0.2 + 0.3 * math.exp(-3 * count / steps)
        extra = f", lr: {rate:.1e} loss: {loss:.3e}"
        yield bar(_LABELS[trainer.family], count, steps, seconds * (1 - _PREPARED) * count / steps, extra)


def bar(label: str, count: int, total: int, seconds: float, extra: str = "") -> str:
    """A bar of tqdm at `count` of `total` after so many seconds."""
    share = count / total if total else 1.0
    eighths = int(share * 80)
    drawn = ("█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()).ljust(10)
    left = seconds * (total - count) / count if count else None
    times = f"{_clock(seconds)}<{'?' if left is None else _clock(left)}, {_speed(count, seconds)}"
    return f"{label}: {share * 100:3.0f}%|{drawn}| {count}/{total} [{times}{extra}]"


def _counts(total: int, share: float) -> Iterator[int]:
    """The counts of a bar that are written, up to this share of it: at most a hundred and one of the same distance, and
    the total. So a log only grows."""
    reached, step = int(total * share), max(1, -(-total // _LINES))
    yield from range(0, reached + 1, step)
    if reached == total and total % step:
        yield total


def _clock(seconds: float) -> str:
    whole = int(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes:02d}:{whole % 60:02d}"


def _speed(count: int, seconds: float) -> str:
    if not count or not seconds:
        return "?it/s"
    rate = count / seconds
    return f"{rate:5.2f}it/s" if rate >= 1 else f"{1 / rate:5.2f}s/it"
