"""Creations of predictions, with what this service knows of their models: the form of their output, and the latest
version in place of one that Replicate refuses to run."""

from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from auth import Caller
from catalog.model import Model
from catalog.outputs import OutputForm
from catalog.targets import Target
from errors import InvalidRequest, LedgerDown
from generations.published_models import PublishedModels
from providers import Created

_NAMES: Final = {"model_name", "trainer"}
"""The fields of requests that name the model to run."""


async def with_form(creating: Coroutine[Any, Any, Created], form: OutputForm) -> Created:
    """The created prediction, with the form of its output."""
    created = await creating
    is_known = created.prediction.form is form
    return created if is_known else replace(created, prediction=replace(created.prediction, form=form))


class LatestVersions:
    """Names the latest version of a model in the refusal of another. It sends no request: the model was
    looked up with the version that was refused."""

    def __init__(self, models: PublishedModels[Any]) -> None:
        self._models = models

    async def named(self, creating: Coroutine[Any, Any, Created], caller: Caller, model: Model) -> Created:
        """The created prediction. Raises as its creation."""
        try:
            return await creating
        except InvalidRequest as refused:
            more = await self._more(caller, Target.parse(model.target))
            if not more:
                raise
            problems = [
                replace(each, message=f"{each.message} {more}") if each.field in _NAMES else each
                for each in refused.problems
            ]
            raise InvalidRequest(problems) from None

    async def _more(self, caller: Caller, target: Target) -> str:
        """A sentence about the latest version, empty if none is known or it names no version."""
        latest = None
        if target.version is not None:
            with suppress(LedgerDown):
                latest = await self._models.latest_known(caller, target.name)
        if latest is None:
            return ""
        is_this = latest == target.version
        return (
            f"It is the latest of {target.name}." if is_this else f"The latest of {target.name} is {latest}."
        )
