"""Describes models that are not declared, for `GET /models`. With a caller, Replicate is read with its token. Without
one, only public models are shown that were looked up before."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

import structlog

from auth import Caller
from catalog.model import Model
from catalog.published import Published
from catalog.registry import Registry
from catalog.targets import Target
from errors import ServiceError
from generations.published_models import Known, PublishedModels
from generations.resolver import Resolver
from providers.models import ModelFacts, ModelSource

_MOST_FOUND: Final = 50

log = structlog.get_logger("models")


class ModelPages:
    """Every method is called on the loop, and raises as `Resolver.resolve`."""

    def __init__(
        self,
        registry: Registry,
        source: ModelSource,
        published: PublishedModels[Published],
        resolver: Resolver,
    ) -> None:
        self._registry = registry
        self._source = source
        self._published = published
        self._resolver = resolver

    async def describe(self, name: str, caller: Caller | None) -> Model | str | None:
        """A model that is not declared, or why there is none."""
        if caller is not None:
            return await self._resolver.find(name, caller)
        known = await self._published.public(name)
        return None if known is None or known.is_missing else self._resolver.model_of(known)

    async def page(self, model: Model, caller: Caller | None) -> Mapping[str, Any]:
        """The body of `GET /models/{name}` for a model that is not declared."""
        page = model.as_json()
        if model.version is None or Target.parse(model.name).deployment is not None:
            return page
        try:
            listed = [asdict(each) for each in await self._published.versions(caller, model.name)]
        except ServiceError as error:
            log.info("versions_not_listed", model=model.name, reason=str(error))
            return page
        return {**page, "versions": listed} if listed else page

    async def search(self, words: str, caller: Caller | None) -> Sequence[Mapping[str, Any]]:
        """Models that are not declared and fit these words, without their schemas."""
        found: Sequence[ModelFacts | Known[Published]]
        if caller is None:
            found = await self._published.search(words, limit=_MOST_FOUND)
        else:
            found = await self._source.search_models(caller, words)
        return [
            {
                "name": each.name,
                "description": each.description,
                "run_count": each.run_count,
                "is_official": each.is_official,
            }
            for each in found
            if self._registry.find(each.name) is None
        ]
