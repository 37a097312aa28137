"""Reads the logs of a training: how far it has come, and their end.

Trainers print bars as tqdm does, each over the one before it:
`flux_train_replicate:  83%|████████▎ | 2482/3000 [43:27<09:04,  1.05s/it]`.
Bars of captions, of loading and of caching come first, and each runs to 100 %. So a bar counts only if its label is a
trainer's own, or if its total is the number of steps and it counts no images or files. Other per cents do not count.

Facts: the code of Replicate's trainers (github.com/replicate/flux-fine-tuner), and logs that their users have shown.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from catalog.trainers import STEP_NAMES
from providers import LogTail
from providers.redaction import Redaction

TAIL: Final = 20_000
"""The most characters of the end of the logs."""

_MARGIN: Final = 4_000
"""Characters that are read before it, and dropped: a credential may begin there."""

_OWN: Final = re.compile(r"(?:[A-Za-z0-9-]+_)*train_replicate|Steps")
"""The labels that Replicate's trainers, and the scripts of diffusers, give to the bars of their steps."""

_OTHERS: Final = re.compile(
    r"caption|load|fetch|extract|cach|latent|encod|embed|image|sampl|generat", re.IGNORECASE
)
"""Words in the labels of bars that count images or files. Their total may happen to be the number of steps."""

_BAR: Final = re.compile(r"[0-9]{1,3}%\|[^|\r\n]{0,500}\|[ \t]{0,10}([0-9]{1,9})/([0-9]{1,9})[ \t]{0,10}\[")
_CONTROL: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_LONGEST_LABEL: Final = 200


def log_tail(logs: Any, redact: Redaction) -> LogTail | None:
    """The end of the logs, without credentials. None if there are none."""
    if not isinstance(logs, str) or not logs:
        return None
    read = redact.words(logs[-TAIL - _MARGIN :])
    if len(logs) > TAIL + _MARGIN:
        read = read[_MARGIN:]
    return LogTail(read[-TAIL:], len(logs))


def progress_of(logs: Any, sent: Any) -> float | None:
    """The percentage of the steps that are done. None if no bar of them is in the end of the logs. `sent` is the input
    of the training, as far as its object shows it."""
    if not isinstance(logs, str):
        return None
    tail, steps = logs[-TAIL:], _steps(sent)
    by_total: float | None = None
    for bar in reversed(list(_BAR.finditer(tail))):
        done, total = (int(each) for each in bar.groups())
        if not total or done > total:
            continue
        label = _label(tail, bar.start())
        if _OWN.fullmatch(label):
            return _per_cent(done, total)
        if by_total is None and total in steps and not _OTHERS.search(label):
            by_total = _per_cent(done, total)
    return by_total


def _label(tail: str, end: int) -> str:
    """The text before a bar: after the end of the line or of the bar before it, and without its colon."""
    before = re.split(r"[\r\n\]]", tail[max(0, end - _LONGEST_LABEL) : end])[-1]
    return _CONTROL.sub("", before).strip().removesuffix(":").strip()


def _steps(sent: Any) -> set[int]:
    if not isinstance(sent, Mapping):
        return set()
    named = (sent.get(name) for name in STEP_NAMES)
    return {int(each) for each in named if isinstance(each, int | float) and 1 < each < 1e9}


def _per_cent(done: int, total: int) -> float:
    """Rounded down, so that it is 100 only at the end."""
    return (1000 * done // total) / 10
