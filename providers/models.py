"""Facts of a provider about models, and how they are looked up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from auth import Caller

PublishedSchema = Mapping[str, Any] | str
"""The OpenAPI document of a version, of bounded size and depth; or, as a text, why it cannot be read: a sentence about
it, such as `it is larger than 512 kB.`"""


@dataclass(frozen=True, slots=True)
class ListedVersion:
    """A version in the list of a model's versions. `created_at` is ISO 8601 in UTC, None if it is unknown."""

    id: str
    created_at: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model, a version of one, or a deployment, as its provider describes it. All texts are redacted, and safe to
    log, keep and show."""

    name: str
    """`owner/name`, or `deployments/owner/name`."""
    version: str | None = None
    """The id of the latest version, of the version that was looked up, or of the deployment's release."""
    schema: PublishedSchema | None = None
    """None if the version has none, for a deployment, and in the results of a search."""
    is_official: bool | None = None
    """Whether it runs by its name, without a version. None if that is unknown."""
    is_private: bool = False
    """Whether only some accounts can read it."""
    description: str = ""
    example: Mapping[str, Any] | None = None
    """The input of its published example."""
    run_count: int | None = None
    release: tuple[str, str] | None = None
    """Of a deployment: the model (`owner/name`) and version that it runs."""
    versions: Sequence[ListedVersion] = ()
    """Of a list of versions: these, the newest first."""


class ModelSource(Protocol):
    """A provider whose models can be looked up. Every method sends one request of the other window. It returns None if
    the provider itself answers that this caller has no such thing, and raises ServiceError for any other failure."""

    async def find_model(self, caller: Caller, name: str) -> ModelFacts | None:
        """The model `owner/name`, with its latest version."""

    async def find_version(self, caller: Caller, name: str, version: str) -> ModelFacts | None:
        """A version (64 hex digits) of the model `owner/name`. It has no more than its name, version and schema."""

    async def find_deployment(self, caller: Caller, name: str) -> ModelFacts | None:
        """The deployment `owner/name`, without the prefix `deployments/`."""

    async def find_versions(self, caller: Caller, name: str) -> Sequence[ListedVersion] | None:
        """The first page of the versions of the model `owner/name`, the newest first. An official model has no such
        list."""

    async def search_models(self, caller: Caller, query: str) -> Sequence[ModelFacts]:
        """The models that fit the words of `query`, the best first, without their schemas."""
