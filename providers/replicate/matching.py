"""Whether a listed or pushed prediction was made by a creation, as far as Replicate shows that.

A prediction shows its `model` ("owner/name"), its `version` and, if a deployment made it, its `deployment`. The version
is the id (64 hex digits), or the word "hidden" for an official model; until 2024 that was another word, such as
`dp-4d0bcc01…`. Real answers leave fields out.

Facts: Replicate's OpenAPI document (`schemas_prediction_response`), and recorded answers.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final

from catalog.targets import Target, is_version
from providers import Prediction
from providers.origins import NOTHING_HIDDEN, Origin
from providers.replicate.answers import ListedPrediction

_OFFICIAL: Final = "hidden"


class Fit(IntEnum):
    """How well a prediction fits a creation. It was made by the creation that it fits best, and a creation has made the
    prediction that fits best."""

    NONE = 0
    """It was made otherwise."""
    DOUBTFUL = 1
    """It shows too little: it cannot be adopted, and the creation cannot be said to have never arrived."""
    POSSIBLE = 2
    """All that it shows is equal. It does not show the version or a secret input, or it shows a version although none
    was sent."""
    EXACT = 3


@dataclass(frozen=True, slots=True)
class CreationKey:
    """What a creation sent. Creations with equal keys make equal predictions.

    `account` identifies the account that pays, `content` is the fingerprint of the input without the secret inputs
    with the names `hidden`. Replicate may show these, or not, or redacted."""

    account: str = field(repr=False)
    target: Target
    content: str
    hidden: frozenset[str] = NOTHING_HIDDEN

    def fit(self, listed: ListedPrediction) -> Fit:
        """How well a prediction of the account fits."""
        origin = listed.origin
        content = origin.content(self.hidden)
        if content == self.content:
            fit = fit_of(self.target, origin)
            return fit if self.hidden <= origin.input.keys() else min(fit, Fit.POSSIBLE)
        if content is not None and not listed.prediction.is_removed:
            return Fit.NONE
        return min(fit_of(self.target, origin), Fit.DOUBTFUL)

    def may_contest(self, other: "CreationKey") -> bool:
        """Whether a prediction may fit both creations, which are not equal."""
        is_like_it = self.content == other.content or self.hidden != other.hidden
        return is_like_it and self.account == other.account and self != other


class Candidates:
    """The listed predictions of an account that fit a creation, and for which `may_be` returns True."""

    def __init__(
        self,
        key: CreationKey,
        listed: Iterable[ListedPrediction],
        *,
        may_be: Callable[[ListedPrediction], bool],
    ) -> None:
        self._key = key
        fits = ((each, key.fit(each)) for each in listed)
        self._fitting = [(each, fit) for each, fit in fits if fit is not Fit.NONE and may_be(each)]

    @property
    def ids(self) -> list[str]:
        return [each.prediction.id for each, _ in self._fitting]

    def adoptable(self, others: Collection[CreationKey]) -> list[Prediction]:
        """Those that fit best and that this creation may adopt, the oldest first: `others` fit them less well."""
        adoptable = [
            (each, fit)
            for each, fit in self._fitting
            if fit > Fit.DOUBTFUL and not _fits_any(each, fit, others)
        ]
        best = max((fit for _, fit in adoptable), default=Fit.NONE)
        fitting_best = sorted((each for each, fit in adoptable if fit is best), key=lambda each: each.created)
        return [each.prediction for each in fitting_best]

    def are_undecided(self, others: Collection[CreationKey], *, latest: float) -> bool:
        """Whether the creation may have made one that it cannot adopt: it fits one of the `others` as well, or was made
        by `latest` (Unix time by Replicate's clock) and shows too little."""
        return any(
            _fits_any(each, fit, others)
            or ((fit is Fit.DOUBTFUL or each.prediction.is_removed) and each.created <= latest)
            for each, fit in self._fitting
        )

    def may_be_of(self, other: CreationKey) -> bool:
        """Whether an equal creation, or another one, may have made one that this creation may adopt."""
        return any(fit > Fit.DOUBTFUL and _fits_any(each, fit, (other,)) for each, fit in self._fitting)


def _fits_any(listed: ListedPrediction, fit: Fit, others: Iterable[CreationKey]) -> bool:
    """Whether a prediction with this fit fits one of the others as well, or better."""
    return any(other.fit(listed) >= fit for other in others)


def fit_of(target: Target, origin: Origin) -> Fit:
    """How well a prediction fits this target, whatever its input is."""
    if target.deployment is not None:
        return _fit_of_deployment(target.deployment, origin)
    shows_version = is_version(origin.version)
    if origin.deployment or target.name not in {target.version_id, origin.model}:
        return Fit.NONE
    if target.version_id is None:
        return Fit.EXACT if origin.version and not shows_version else Fit.POSSIBLE
    if shows_version:
        return Fit.EXACT if origin.version == target.version_id else Fit.NONE
    return Fit.POSSIBLE


def _fit_of_deployment(name: str, origin: Origin) -> Fit:
    """The model and version do not count, since the deployment's owner may change them at any time."""
    if origin.deployment:
        return Fit.EXACT if origin.deployment in {name, name.partition("/")[2]} else Fit.NONE
    return Fit.NONE if origin.version == _OFFICIAL else Fit.DOUBTFUL
