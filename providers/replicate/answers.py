"""Reads Replicate's answers into values that the rest of the service trusts.

Reading is lenient: real answers leave fields out, and that is no error. But only usable values are passed on:
an id fits into an address and a log, an address is valid, and every text is redacted (`providers/redaction.py`).

Facts: replicate.com/docs/reference/http, and recorded answers.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from auth import Secret
from errors import UpstreamError
from providers import ENDED, Prediction
from providers.connections import Lost
from providers.origins import Origin
from providers.redaction import Redaction
from providers.replicate.errors import LONGEST_WAIT, cause_of
from providers.replicate.outputs import read_output
from providers.replicate.transport import Refusal

_METRICS = 50
"""The most metrics that are taken from one prediction."""

_METRIC_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
_LONGEST_METRIC = 200
"""Characters of a metric that is a text."""

_LARGEST_METRIC = 1e15

_LOGS_READ = 2_000
"""Characters read from the end of the logs, which may be long and are read at every poll."""

_LOGS_READ_FOR_SEED = 50_000
"""Characters read from the start of the logs of a prediction that is over."""

_ID = re.compile(r"(?!\.)[A-Za-z0-9 !$&'()*+,.:;=@_~-]{1,128}")
_PLACEHOLDER = "unusable:"
_USERNAME = re.compile(r"[!-~]{1,200}")
_ADDRESS = re.compile(r"https?://[!-~]{1,4000}", re.IGNORECASE)
_NEXT = re.compile(r"[!-~]{0,8000}")
_SECRET = re.compile(r"[!-~]{1,400}")
_SEED = re.compile(r"^Using seed: ([0-9]{1,20})\r?$", re.MULTILINE)
"""How the models that Replicate publishes itself, and most that follow them, print their seed."""
_PER_CENT = re.compile(r"(?<![0-9.])([0-9]{1,3}(?:\.[0-9]{1,9})?)%")


NOTHING_SECRET = Redaction()


class Unusable(Lost):
    """The answer is a prediction, but its id or status cannot be used."""


@dataclass(frozen=True, slots=True)
class ListedPrediction:
    """A prediction on the list, and how it was made. An id that cannot be used is replaced by a placeholder
    (`is_placeholder`), so that a search for a lost creation counts its prediction."""

    prediction: Prediction
    origin: Origin

    @property
    def created(self) -> float:
        """Unix time by Replicate's clock; infinity without a date, so that it never counts as too old."""
        created_at = self.prediction.created_at
        return math.inf if created_at is None else created_at.timestamp()


@dataclass(frozen=True, slots=True)
class Page:
    """A page of an account's predictions, the latest first."""

    predictions: Mapping[str, Prediction]
    """By id, those that show a status."""
    oldest: datetime | None
    """When the oldest was created, by Replicate's clock; None if there is no further page."""
    items: Sequence[ListedPrediction] = ()
    next_query: str | None = None
    """The query of the next page."""


@dataclass(frozen=True, slots=True)
class Account:
    """An account by its token. The status `refused` stands for Replicate's own 401 and `forbidden` for its
    own 403. `unknown` means no answer, or an inconclusive one. `username` is the account's, if the token is
    accepted and the answer names one."""

    status: Literal["accepted", "refused", "forbidden", "unknown"]
    username: str | None = None


def read_prediction(answer: Any, redact: Redaction = NOTHING_SECRET) -> Prediction:
    """Read a prediction from its JSON; only `id` and `status` are required. Raises Lost if either is missing,
    and Unusable if there is an id but the two cannot be used."""
    if not isinstance(answer, dict):
        raise Lost("the answer is no prediction")
    identity, status = usable_id(answer.get("id"), redact), answer.get("status")
    if identity is None or not isinstance(status, str):
        raise (Unusable if answer.get("id") else Lost)("the answer is no prediction")
    return _prediction(answer, identity, status, redact)


def _prediction(answer: Mapping[str, Any], identity: str, status: str, redact: Redaction) -> Prediction:
    created_at, error = moment(answer.get("created_at")), _text(answer.get("error"), redact)
    return Prediction(
        id=identity,
        status=redact(status),
        output=read_output(answer.get("output"), redact),
        error=error,
        cause=cause_of(error),
        created_at=created_at,
        seconds=_seconds(created_at, moment(answer.get("completed_at"))),
        started_at=moment(answer.get("started_at")),
        metrics=_metrics(answer.get("metrics"), redact),
        # A real answer may leave it out; without it, a cancelled one counts as billed.
        started=status in {"processing", "succeeded"} or bool(answer.get("started_at", status == "canceled")),
        is_removed=answer.get("data_removed") is True,
        seed=_seed(answer.get("logs"), redact) if status in ENDED else None,
        progress=None if status in ENDED else _progress(answer.get("logs")),
    )


def read_origin(answer: Mapping[str, Any]) -> Origin:
    """How a prediction was made, by its JSON."""
    model, version, deployment = (answer.get(name) for name in ("model", "version", "deployment"))
    return Origin(
        model if isinstance(model, str) else None,
        version if isinstance(version, str) else None,
        deployment if isinstance(deployment, str) else None,
        answer.get("input"),
    )


def usable_id(value: Any, redact: Redaction = NOTHING_SECRET) -> str | None:
    """The id, if it fits into an address, a log and a database row, and is no credential."""
    is_usable = isinstance(value, str) and _ID.fullmatch(value) and not redact.is_in(value)
    return value if is_usable else None


def read_page(
    answer: Any,
    redact: Redaction = NOTHING_SECRET,
    *,
    origin_of: Callable[[Mapping[str, Any]], Origin] = read_origin,
) -> Page:
    """Read a page of the list. Items that are not objects are left out. Raises Lost if it is no page, or if
    its `next` cannot be requested."""
    items = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise Lost("the answer is no list of predictions")
    following = answer.get("next") or None
    if following is not None and not (isinstance(following, str) and _NEXT.fullmatch(following)):
        raise Lost("the next page cannot be requested")
    predictions: dict[str, Prediction] = {}
    listed = []
    for item in (each for each in items if isinstance(each, dict)):
        identity, status = item.get("id"), item.get("status")
        identity = usable_id(identity, redact) or _placeholder(identity)
        prediction = _prediction(item, identity, status if isinstance(status, str) else "starting", redact)
        listed.append(ListedPrediction(prediction, origin_of(item)))
        known = predictions.get(prediction.id)
        if isinstance(status, str) and not (known and known.is_over and prediction.status not in ENDED):
            predictions[prediction.id] = prediction
    dates = [each.prediction.created_at for each in listed if each.prediction.created_at]
    # Only the query of `next` is used: the token would go to any host that it names.
    next_query = None if following is None else following.partition("?")[2]
    return Page(predictions, dates[-1] if dates and following else None, listed, next_query)


def is_placeholder(identity: str) -> bool:
    """Whether this id is a placeholder for an id that cannot be used."""
    return identity.startswith(_PLACEHOLDER)


def _placeholder(identity: Any) -> str:
    """A placeholder for an id that cannot be used; always the same for the same id."""
    text = identity if isinstance(identity, str) else ""
    return _PLACEHOLDER + hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]


def read_file_address(answer: Any, redact: Redaction = NOTHING_SECRET) -> str:
    """The address at which a prediction can read an uploaded file. Raises Lost if the answer is no file."""
    urls = answer.get("urls") if isinstance(answer, dict) else None
    address = urls.get("get") if isinstance(urls, dict) else None
    if not isinstance(address, str) or not _ADDRESS.fullmatch(address) or redact.is_in(address):
        raise Lost("the answer is no file")
    return address


def read_account(answer: Any, redact: Redaction = NOTHING_SECRET) -> Account:
    """The account of an accepted token. Unknown if the answer is none of Replicate's."""
    if not isinstance(answer, dict):
        return Account("unknown")
    username = answer.get("username")
    is_name = isinstance(username, str) and _USERNAME.fullmatch(username) and not redact.is_in(username)
    return Account("accepted", username if is_name else None)


def refused_account(refusal: Refusal) -> Account:
    """The status of a token whose request for the account was refused."""
    if refusal.is_replicates and refusal.status in {401, 403}:
        return Account("refused" if refusal.status == 401 else "forbidden")
    return Account("unknown")


def read_secret(answer: Any) -> Secret:
    """An account's signing secret. Raises UpstreamError when the answer has none."""
    key = answer.get("key") if isinstance(answer, dict) else None
    if not isinstance(key, str) or not _SECRET.fullmatch(key):
        raise UpstreamError("Replicate sent no secret for its webhooks.")
    return Secret(key)


def exhausted_for(headers: Mapping[str, str]) -> float:
    """Seconds until the account may create again, when the answer says that this was its last creation for now."""
    try:
        remaining, reset = float(headers["ratelimit-remaining"]), float(headers["ratelimit-reset"])
    except (KeyError, ValueError):
        return 0.0
    return min(max(0.0, reset), LONGEST_WAIT) if remaining < 1 else 0.0


def moment(text: Any) -> datetime | None:
    """Parse a time as Replicate writes it (ISO 8601, UTC by default). None if it is no time."""
    try:
        read = datetime.fromisoformat(text)
        return read.astimezone(UTC) if read.tzinfo else read.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _seed(logs: Any, redact: Redaction) -> int | None:
    """The seed that was printed; None if several were, since a prompt may be printed, too."""
    found = set(_SEED.findall(logs[:_LOGS_READ_FOR_SEED])) if isinstance(logs, str) else set()
    return int(found.pop()) if len(found) == 1 and not any(map(redact.is_in, found)) else None


def _progress(logs: Any) -> float | None:
    """The last percentage that was printed. Models mostly print bars: ` 40%|████      | 12/30`."""
    if not isinstance(logs, str):
        return None
    shares = [share for found in _PER_CENT.findall(logs[-_LOGS_READ:]) if (share := float(found)) <= 100]
    return shares[-1] if shares else None


def _metrics(metrics: Any, redact: Redaction) -> dict[str, Any]:
    """The metrics that can be counted or shown. Replicate lists none of the names, and models may add their own."""
    if not isinstance(metrics, dict):
        return {}
    usable: dict[str, Any] = {}
    for name, value in metrics.items():
        if not _METRIC_NAME.fullmatch(name) or redact.is_in(name):
            continue
        if isinstance(value, int | float):
            if -_LARGEST_METRIC <= value <= _LARGEST_METRIC:  # false for nan
                usable[name] = value
        elif isinstance(value, str) and len(value) <= _LONGEST_METRIC:
            usable[name] = redact.words(value)
        if len(usable) == _METRICS:
            break
    return usable


def _text(value: Any, redact: Redaction) -> str | None:
    if value is None:
        return None
    try:
        return redact.words(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    except (RecursionError, ValueError):  # nested too deep, or a number too long to be written
        return "The error is not readable."


def _seconds(created: datetime | None, completed: datetime | None) -> float | None:
    """Also None if the completion is before the creation."""
    if created is None or completed is None or completed <= created:
        return None
    return (completed - created).total_seconds()
