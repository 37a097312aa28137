"""Fallback: another model is tried when one fails, if the request allows it.

The next model follows from the list in the request or, without a list, from the rules of the failed model, which the
operator may replace. No model is tried twice. Its input is adapted from the caller's parameters (`adaptation.py`), not
from the input of an earlier attempt, so that no parameter is lost.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from catalog.adaptation import Adaptation, Change, Step, is_taken, makes_enough
from catalog.model import Fallback, Model
from catalog.registry import Registry, Rules
from errors.listing import every_error
from settings import SettingsError
from settings.tables import read_table

CODES = tuple(error.code for error in every_error() if error.falls_back)
"""The error codes after which another model may be tried."""


@dataclass(frozen=True, slots=True)
class Route:
    """The models that a request may try. `given` are the caller's parameters, each valid for at least one model.
    `order` is the list of models in the request; without it the rules of the registry apply. `changes` were made before
    any model's, and hold for all. `may_run` says whether the caller may run a model. Each model gets the shape of the
    `preset` in its own inputs."""

    requested: Model
    given: Mapping[str, Any]
    registry: Registry
    order: tuple[Model, ...] | None = None
    changes: tuple[Change, ...] = ()
    may_run: Callable[[Model], bool] = lambda model: True
    preset: str | None = None

    def first(self) -> Step | None:
        """The requested model, or another that takes its reference images and makes its number of outputs, or None."""
        fitting = (
            each
            for each in self._options()
            if each.kind == self.requested.kind
            and self._takes_references(each)
            and makes_enough(each, self.given)
            and self.may_run(each)
        )
        steps = [self.step(model) for model in fitting]
        return next((step for step in steps if step.unfit is None), next(iter(steps), None))

    def after(self, tried: Sequence[Model], *, code: str) -> Step | None:
        """The next model after the last of these failed with this error code, or None."""
        following = self._following(tried[-1], code) if self.order is None else self._listed_after(tried[-1])
        left = (model for model in following if model not in {*tried, self.requested})
        return next(map(self.step, left), None)

    def with_prompt(self, prompt: str, changes: tuple[Change, ...]) -> "Route":
        return replace(self, given={**self.given, "prompt": prompt}, changes=changes)

    @property
    def asks_for_an_edit(self) -> bool:
        """Whether a model that makes images is given one by the name that another model has for it."""
        return self.requested.kind == "image" and self._would_misread(self.requested)

    def _takes_references(self, model: Model) -> bool:
        registry, given = self.registry, self.given
        beside = (
            name for name in given if name in registry.reference_names and model.takes_beside_references(name)
        )
        return (
            len(registry.references_for(model, given)) <= model.most_references
            and not self._would_misread(model)
            and all(is_taken(model, name, given[name]) for name in beside)
        )

    def _would_misread(self, model: Model) -> bool:
        """Whether the model would use an image for something else than the model that has its name for it. Images are
        to be edited, and not to be varied, and the image of a video is its first frame, and no character in it."""
        takes = model.references
        if takes is None or takes.does_edit:
            return False
        if model.kind == "video" and not model.inputs[takes.parameter].is_list:
            return False
        names = (name for name in self.given if name in self.registry.reference_names)
        return any(name not in model.inputs for name in names)

    def _options(self) -> Iterator[Model]:
        """The models that may be tried first, the preferred first. No retired model is among them, unless the request
        or the operator names it."""
        yield self.requested
        if self.order is not None:
            yield from self.order
        elif not self._takes_references(self.requested):
            yield from self.registry.reference_models
            yield from (model for model in self.registry.models if model.retired is None)
        else:
            has_references = bool(self.registry.references_in(self.given))
            reached = [self.requested]
            for model in reached:  # the list grows during the loop
                rules = self.registry.fallbacks(model)
                found = (
                    self.registry.find(rule.to) for rule in rules if rule.references in {None, has_references}
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
        step = Adaptation(self.requested, model, self.registry, self.preset).step(self.given)
        return replace(step, changes=(*self.changes, *step.changes))


class _Rule(BaseModel):
    """One `Fallback` in the operator's file."""

    model_config = ConfigDict(strict=True, extra="forbid")

    to: str
    references: bool | None = None
    on: list[str] = []


def read_rules(path: Path, registry: Registry) -> Rules:
    """The rules of a TOML or JSON file. They replace those of each model that the file names:

        flux-dev = ["qwen-image"]
        nano-banana = [{to = "imagen-4-ultra", on = ["content_refused"]}, {to = "flux-dev", references = true}]
        qwen-image = []

    Raises SettingsError that lists all mistakes.
    """
    table = read_table("FALLBACKS_FILE", path)
    wrong: list[str] = []
    rules = dict(_read_rule(name, entries, registry, wrong) for name, entries in table.items())
    if wrong:
        raise SettingsError("\n".join(f"FALLBACKS_FILE: {sentence}." for sentence in wrong))
    return rules


def _read_rule(name: str, entries: Any, registry: Registry, wrong: list[str]) -> tuple[str, list[Fallback]]:
    model = registry.find(name)
    if model is None:
        quotes = "; a name with a dot in it wants quotes" if isinstance(entries, dict) else ""
        wrong.append(f"{name} is not a known model{quotes}")
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
            wrong.append(f"{name}: {rule.to} is not another known model")
        elif target.kind != model.kind:
            wrong.append(f"{name}: {rule.to} makes {target.kind}s, not {model.kind}s")
        elif strange:
            wrong.append(f"{name}: {strange[0]} is none of the codes that are followed: {', '.join(CODES)}")
        else:
            read.append(Fallback(target.name, rule.references, tuple(rule.on)))
    return model.name, read
