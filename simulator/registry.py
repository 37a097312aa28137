"""All models of one simulator, found as Replicate finds them: by name, by version, by deployment, by search.

A model that an account must not see does not exist for it. Models can be published while the simulator runs, which adds
a version or changes facts, and `reset` returns to those of the start.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from simulator import catalog, loading, official
from simulator.model import Deployment, Facts, Model, Version
from simulator.options import Options


class Registry:
    """The models by name and the deployments by name.

    Args:
        options: `models` has the directories of further models, `boot_seconds` overrides how long models boot.

    Raises:
        ValueError: If a file of a model is invalid. The message names it.
    """

    def __init__(self, options: Options) -> None:
        self._boot_seconds = options.boot_seconds
        self._at_start = {model.name: model for model in (*official.models(), *catalog.MODELS)}
        self._deployments_at_start: dict[str, Deployment] = {}
        for model, deployments in loading.shipped():
            self._at_start[model.name] = model
            self._deployments_at_start |= {each.name: each for each in deployments}
        for path in (path for directory in options.models for path in sorted(directory.glob("*.json"))):
            model, deployments = loading.read(path, self._at_start)
            self._at_start[model.name] = model
            self._deployments_at_start |= {each.name: each for each in deployments}
        self.reset()

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def reset(self) -> None:
        """Return to the models of the start, none of which has booted."""
        self._models = dict(self._at_start)
        self._deployments = dict(self._deployments_at_start)
        self._warm_at: dict[tuple[str, str], float] = {}

    def find(self, name: str, *, token: str) -> Model | None:
        """The model `owner/name`, if it exists for the account of `token`."""
        model = self._models.get(name)
        return model if model and model.is_visible(token) else None

    def is_taken(self, name: str) -> bool:
        """Whether there is a model `owner/name`, in any account."""
        return name in self._models

    def add_version(self, name: str, version: Version, facts: Facts) -> None:
        """Add the version that a training made, with the facts of its model. The model may be gone after a reset."""
        model = self._models.get(name)
        if model is not None:
            facts = replace(facts, tokens=model.facts.tokens)
            self._models[name] = replace(model, versions=(version, *model.versions), facts=facts)

    def by_version(self, version: str, *, token: str) -> tuple[Model, Version] | None:
        """The model that has the version of this id, and the version."""
        for model in self._models.values():
            found = model.find(version) if model.is_visible(token) else None
            if found is not None:
                return model, found
        return None

    def deployment(self, name: str, *, token: str) -> Deployment | None:
        """The deployment `owner/name`, if it exists for the account of `token`."""
        found = self._deployments.get(name)
        return found if found and (found.tokens is None or token in found.tokens) else None

    def deployed(self, deployment: Deployment) -> Model:
        """The model that a deployment runs."""
        return self._models[deployment.model]

    def search(self, query: str, *, limit: int, token: str) -> list[Model]:
        """The public models with every word of `query` in their name or description, most used first."""
        words = query.lower().split()
        found = [
            model
            for model in self._models.values()
            if not model.is_private and model.is_visible(token)
            if all(word in f"{model.name} {model.page.get('description')}".lower() for word in words)
        ]
        return sorted(found, key=lambda model: -int(model.page.get("run_count") or 0))[:limit]

    def publish(self, document: Mapping[str, Any]) -> Model:
        """Publish a model of a document (`loading`). What it leaves out stays as it is; the model has then not booted.

        Raises:
            ValueError: If the document is invalid. Then nothing is changed.
        """
        try:
            model, deployments = loading.model_of(document, self._models)
        except (TypeError, KeyError, AttributeError) as reason:
            raise ValueError(f"a model is an object with owner and name: {reason!r}") from reason
        self._models[model.name] = model
        self._deployments |= {each.name: each for each in deployments}
        self._warm_at = {key: at for key, at in self._warm_at.items() if key[0] != model.name}
        return model

    def boot(self, model: Model, version: str, deployment: Deployment | None, *, now: float) -> float:
        """The seconds until the version has booted for a prediction that is created at `now`.

        The first prediction starts the boot, and all that come meanwhile wait for its end. Official models and
        deployments with an instance are always on.
        """
        if model.is_official or (deployment and deployment.min_instances):
            return 0.0
        seconds = model.facts.boot_seconds if self._boot_seconds is None else self._boot_seconds
        key = (model.name, deployment.name if deployment else version)
        return max(0.0, self._warm_at.setdefault(key, now + seconds) - now)
