"""The registry: all models of the service by name, and facts that follow from all models together.

A model may be registered while the service runs. Parsing, forms, `/models`, OpenAPI and fallbacks include it from then
on.
"""

import threading
from collections.abc import Iterable, Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

from catalog.model import Fallback, Model
from catalog.references import NAMES

Rules = Mapping[str, Sequence[Fallback]]
"""The fallbacks of models, by full name."""


class Registry:
    """Models in the order they were registered. Any thread may read it while another registers a model.

    `takers` are the models that take each parameter, `reference_names` the parameters that take reference images,
    and `secrets` those that hold a secret.
    `rules` replace the fallbacks that a model declares.
    """

    def __init__(self, models: Iterable[Model] = (), *, rules: Rules | None = None) -> None:
        self._rules = rules or {}
        self._registering = threading.Lock()
        self._by_name: Mapping[str, Model] = {}
        self.models: tuple[Model, ...] = ()
        self.takers: Mapping[str, tuple[Model, ...]] = {}
        self.reference_names: tuple[str, ...] = NAMES
        self.secrets: frozenset[str] = frozenset()
        self._add(models)

    def register(self, model: Model) -> None:
        """Add a model after all others. Raises ValueError if one of its names is in use."""
        self._add([model])

    def _add(self, models: Iterable[Model]) -> None:
        with self._registering:  # readers need no lock, since each attribute is replaced and never changed
            by_name, takers = {**self._by_name}, {**self.takers}
            reference_names, secrets, added = self.reference_names, self.secrets, [*models]
            for model in added:
                for name in model.names:
                    if name in by_name:
                        raise ValueError(f"{name} is already the name of a model")
                by_name |= dict.fromkeys(model.names, model)
                takers |= {name: (*takers.get(name, ()), model) for name in model.inputs}
                secrets |= {*model.inputs.secrets}
                if model.references and model.references.parameter not in reference_names:
                    reference_names = (*reference_names, model.references.parameter)
            self.takers, self.secrets, self.reference_names = takers, secrets, reference_names
            self.models = (*self.models, *added)
            self._by_name = by_name

    def find(self, name: str) -> Model | None:
        """The model of this full name or alias."""
        return self._by_name.get(name)

    def nearest_first(self, name: str) -> list[str]:
        """The full names of all models, the most similar to `name` first."""
        given = name[:100].lower()

        def likeness(model: Model) -> float:
            return max(SequenceMatcher(None, given, known.lower()).ratio() for known in model.names)

        return [model.name for model in sorted(self.models, key=likeness, reverse=True)]

    def fallbacks(self, model: Model) -> Sequence[Fallback]:
        """The fallback rules that apply when this model has failed."""
        return self._rules.get(model.name, model.fallbacks)

    def references_in(self, params: Mapping[str, Any]) -> list[Any]:
        """All reference images among these parameters."""
        values = (params.get(name) for name in self.reference_names)
        return [
            image for value in values if value for image in (value if isinstance(value, list) else [value])
        ]

    def references_for(self, model: Model, params: Mapping[str, Any]) -> list[Any]:
        """The reference images among these parameters that can only go into the model's own parameter for them."""
        apart = {name: value for name, value in params.items() if not model.takes_beside_references(name)}
        return self.references_in(apart)

    @property
    def reference_models(self) -> list[Model]:
        """The models that get reference images which the requested model does not take, those that take the fewest
        first."""
        preferred = (each for each in self.models if each.references and each.references.preferred)
        return sorted(preferred, key=lambda each: each.most_references)

    @property
    def most_references(self) -> int:
        """The most reference images that any model says it takes."""
        counts = (each.references.most for each in self.models if each.references)
        return max((count for count in counts if count is not None), default=0)

    def list_parameters(self, model: Model | None) -> set[str]:
        """The parameters that take a list of files: those of the model, and those that do for every model that has
        them."""
        everywhere = {
            name
            for name, takers in self.takers.items()
            if all(each.inputs[name].is_list and each.inputs[name].takes_files for each in takers)
        }
        if model is None:
            return everywhere
        own = model.inputs.fields
        lists = {name for name, it in own.items() if it.is_list and it.takes_files}
        return (everywhere - own.keys()) | lists

    @property
    def text_parameters(self) -> set[str]:
        """The parameters that hold text, including reference images."""
        texts = (name for each in self.models for name, it in each.inputs.fields.items() if it.is_text)
        return {*self.reference_names, *texts}

    @property
    def free_texts(self) -> set[str]:
        """The parameters that hold free text, in which an empty text is a value."""
        return {name for each in self.models for name, it in each.inputs.fields.items() if it.is_free_text}
