"""Looks up models, versions and deployments at Replicate. Nothing is kept here."""

from collections.abc import Awaitable
from contextlib import suppress
from typing import Final, TypeVar

from auth import Caller
from catalog.targets import is_model_name, is_version
from errors import ServiceError, UpstreamError
from providers.connections import Lost, NotSent, TooLarge
from providers.models import ListedVersion, ModelFacts, ModelSource
from providers.replicate.client import ReplicateClient
from providers.replicate.errors import is_about_token, passing_error
from providers.replicate.refusals import Refusals
from providers.replicate.transport import Refusal

_LONGEST_QUERY: Final = 500
"""Characters of a search."""

T = TypeVar("T")


class ModelLookups(ModelSource):
    """See `providers.ModelSource`. Names and ids that do not fit into a path are not asked for: Replicate has none
    such."""

    def __init__(self, client: ReplicateClient, refusals: Refusals) -> None:
        self._client = client
        self._refusals = refusals

    async def find_model(self, caller: Caller, name: str) -> ModelFacts | None:
        if not is_model_name(name):
            return None
        return await self._found(caller, self._client.get_model(caller, name))

    async def has_model(self, caller: Caller, name: str) -> bool:
        """Whether Replicate has this model, for this account. Raises ServiceError."""
        if not is_model_name(name):
            return False
        return bool(await self._found(caller, self._exists(caller, name)))

    async def find_version(self, caller: Caller, name: str, version: str) -> ModelFacts | None:
        if not is_model_name(name) or not is_version(version):
            return None
        return await self._found(caller, self._version(caller, name, version))

    async def find_deployment(self, caller: Caller, name: str) -> ModelFacts | None:
        if not is_model_name(name):
            return None
        return await self._found(caller, self._client.get_deployment(caller, name))

    async def find_versions(self, caller: Caller, name: str) -> list[ListedVersion] | None:
        if not is_model_name(name):
            return None
        return await self._found(caller, self._client.list_versions(caller, name))

    async def search_models(self, caller: Caller, query: str) -> list[ModelFacts]:
        return await self._found(caller, self._client.search_models(caller, query[:_LONGEST_QUERY])) or []

    async def _version(self, caller: Caller, name: str, version: str) -> ModelFacts:
        """A version. If the answer is too large to be read, the version exists, and its schema is unread."""
        try:
            return await self._client.get_version(caller, name, version)
        except TooLarge as too_large:
            return ModelFacts(name, version, f"{too_large}.")

    async def _exists(self, caller: Caller, name: str) -> bool:
        """True. Raises as any request: a refusal with 404 shows that there is none."""
        with suppress(TooLarge):
            await self._client.get_model(caller, name)
        return True

    async def _found(self, caller: Caller, answer: Awaitable[T]) -> T | None:
        """The answer, or None for a 404 in Replicate's own words. Raises ServiceError."""
        try:
            return await answer
        except Refusal as refusal:
            if refusal.is_replicates and refusal.status == 404:
                return None
            raise await self._error(refusal, caller) from None
        except TooLarge:
            error = UpstreamError(
                "Replicate's answer is too large or too deep to be read. A version runs nevertheless: send owner/name:"
                " and its id."
            )
            error.retryable = False
            raise error from None
        except NotSent:
            raise UpstreamError("Replicate cannot be reached.") from None
        except Lost:
            raise UpstreamError("Replicate's answer about this model could not be read.") from None

    async def _error(self, refusal: Refusal, caller: Caller) -> ServiceError:
        """A token that is accepted elsewhere may not read this model. That is final."""
        if await self._refusals.is_final(refusal, caller):
            return self._refusals.final_error(refusal, caller)
        if is_about_token(refusal):
            error = UpstreamError("Replicate does not let this account read the model.")
            error.retryable = False
            return error
        return passing_error(refusal)
