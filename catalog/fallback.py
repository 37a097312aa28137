"""Fallback: another model is tried when one fails, if the caller chose that.

The next model follows from the caller's own list or, without one, from the rules of the failed model: its own, or the
operator's in their place. No model is tried twice. Its input is adapted from the caller's parameters (`adaptation.py`)
and not from the input of an earlier attempt, so nothing is lost on the way.
"""

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from catalog.adaptation import Adaptation, Step, makes_enough
from catalog.model import Fallback, Model
from catalog.registry import Registry, Rules
from errors import every_error
from settings import SettingsError

CODES = tuple(error.code for error in every_error() if error.falls_back)
"""The error codes after which another model may be tried."""


@dataclass(frozen=True, slots=True)
class Route:
    """Where a request may go. `given` are the caller's parameters, each valid for the requested model or for some
    other; `order` is the caller's own list of models, if there is one; without it the registry's rules apply."""

    requested: Model
    given: Mapping[str, Any]
    registry: Registry
    order: tuple[Model, ...] | None = None

    def first(self) -> Step | None:
        """The requested model, or where its reference images or its number of outputs lead; None if nowhere."""
        images = len(self.registry.references_in(self.given))
        fitting = (
            each
            for each in self._options(images)
            if each.most_references >= images
            and each.kind == self.requested.kind
            and makes_enough(each, self.given)
        )
        steps = [self.step(model) for model in fitting]
        return next((step for step in steps if step.unfit is None), next(iter(steps), None))

    def after(self, tried: Sequence[Model], *, code: str) -> Step | None:
        """Where to go when the last of these failed with that code; None if nowhere."""
        following = self._following(tried[-1], code) if self.order is None else self._listed_after(tried[-1])
        left = (model for model in following if model not in {*tried, self.requested})
        return next(map(self.step, left), None)

    def with_prompt(self, prompt: str) -> "Route":
        return replace(self, given={**self.given, "prompt": prompt})

    def _options(self, images: int) -> Iterator[Model]:
        """The models that may be the first, the likeliest first."""
        yield self.requested
        if self.order is not None:
            yield from self.order
        elif images > self.requested.most_references:
            yield from self.registry.reference_models
            yield from self.registry.models
        else:
            reached = [self.requested]
            for model in reached:  # grows on the way
                rules = self.registry.fallbacks(model)
                found = (
                    self.registry.find(rule.to) for rule in rules if rule.references in {None, images > 0}
                )
                reached += [each for each in dict.fromkeys(found) if each and each not in reached]
            yield from reached[1:]

    def _following(self, failed: Model, code: str) -> Iterator[Model]:
        has_references = bool(self.registry.references_in(self.given))
        for rule in self.registry.fallbacks(failed):
            model = self.registry.find(rule.to)
            if model is not None and rule.applies(code=code, has_references=has_references):
                yield model

    def _listed_after(self, model: Model) -> Sequence[Model]:
        """The models after this one in the caller's list. The requested model comes before the list."""
        order = self.order or ()
        return order if model is self.requested else order[order.index(model) + 1 :]

    def step(self, model: Model) -> Step:
        return Adaptation(self.requested, model, self.registry).step(self.given)


class _Rule(BaseModel):
    """One `Fallback` as the operator's file writes it."""

    model_config = ConfigDict(strict=True, extra="forbid")

    to: str
    references: bool | None = None
    on: list[str] = []


def read_rules(path: Path, registry: Registry) -> Rules:
    """The rules of a file, which stand in for the registry's model by model. TOML or JSON, by the file's ending:

        flux-dev = ["qwen-image"]
        nano-banana = [{to = "imagen-4-ultra", on = ["content_refused"]}, {to = "flux-dev", references = true}]
        qwen-image = []

    Raises SettingsError that says everything that is wrong with it.
    """
    try:
        content = path.read_text(encoding="utf-8")
        table = json.loads(content) if path.suffix == ".json" else tomllib.loads(content)
    except (OSError, ValueError) as error:
        kind = "JSON" if path.suffix == ".json" else "TOML"
        raise SettingsError(f"FALLBACKS_FILE: {path} cannot be read as {kind}: {error}.") from None
    if not isinstance(table, dict):
        raise SettingsError(f"FALLBACKS_FILE: {path} must be a table of models.")
    wrong: list[str] = []
    rules = dict(_read_rule(name, entries, registry, wrong) for name, entries in table.items())
    if wrong:
        raise SettingsError("\n".join(f"FALLBACKS_FILE: {sentence}." for sentence in wrong))
    return rules


def _read_rule(name: str, entries: Any, registry: Registry, wrong: list[str]) -> tuple[str, list[Fallback]]:
    model = registry.find(name)
    if model is None:
        quotes = "; a name with a dot in it wants quotes" if isinstance(entries, dict) else ""
        wrong.append(f"{name} is not a model known here{quotes}")
        return name, []
    read = []
    for entry in entries if isinstance(entries, list) else [entries]:
        try:
            rule = _Rule.model_validate({"to": entry} if isinstance(entry, str) else entry)
        except ValidationError as invalid:
            where = " ".join(str(step) for step in invalid.errors()[0]["loc"])
            wrong.append(
                f"{name}: {where or 'an entry'} is not what it should be; there are to, references and on"
            )
            continue
        target = registry.find(rule.to)
        strange = [code for code in rule.on if code not in CODES]
        if target is None or target is model:
            wrong.append(f"{name}: {rule.to} is not another model known here")
        elif target.kind != model.kind:
            wrong.append(f"{name}: {rule.to} makes {target.kind}s, not {model.kind}s")
        elif strange:
            wrong.append(f"{name}: {strange[0]} is none of the codes that are followed: {', '.join(CODES)}")
        else:
            read.append(Fallback(target.name, rule.references, tuple(rule.on)))
    return model.name, read
