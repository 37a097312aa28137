"""The predictions that are on record, so that no search for a lost creation adopts one of them."""

from collections import OrderedDict
from typing import Final

_KEPT: Final = 50_000


class KnownPredictions:
    """The latest ids on record, and whose they are."""

    def __init__(self) -> None:
        self._references: OrderedDict[str, str | None] = OrderedDict()
        """By id, the reference of the attempt that made the prediction, if that is known."""

    def is_known(self, prediction_id: str) -> bool:
        return prediction_id in self._references

    def register_known(self, prediction_id: str, reference: str | None = None) -> None:
        self._references[prediction_id] = reference
        if len(self._references) > _KEPT:
            self._references.popitem(last=False)

    def may_be(self, prediction_id: str, reference: str) -> bool:
        """Whether the attempt of this reference may have made the prediction: no other attempt is known to have made
        it."""
        return self._references.get(prediction_id) in {None, reference}
