"""Finds the models that a request names: the declared ones, and any other that Replicate has.

A name is an alias or full name of the registry, `owner/name`, `owner/name:<version>`, `deployments/owner/name`, or the
id of a version that is known here, since Replicate has no look-up by it alone. If a list bounds the models of the
caller, the version is looked up at those that the list names. All but the first are looked up with the token of the
caller, once for all that ask (`published_models.py`).

If Replicate cannot be asked, a trained model that the operator has named is checked like all of its family
(`families.py`).

An official model runs by its name, also if a version is named, since Replicate refuses most of its versions. Any other
runs the version whose schema was checked, so the version is pinned when the request is accepted: the latest one may
change while the generation waits.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from typing import Final

from auth import Authenticator, Caller
from catalog.families import NO_TRAINED_MODELS, TrainedModels, told_unread, trained_flux
from catalog.model import Model
from catalog.published import Published
from catalog.registry import Registry
from catalog.targets import Target, is_model_name, is_version
from catalog.tariff import PUBLISHED, Tariff
from contract.providers import CREATIONS, TRAININGS
from errors import LedgerDown, ModelNotAllowed, ServiceError
from generations.published_models import Known, PublishedModels
from ledger import Queries
from ledger.access_records import MAY_GENERATE

WordOf = Callable[[str], Awaitable[str | None]]
"""Returns the trigger word of a version that was trained here. Raises LedgerDown."""

LORA: Final = "lora"
"""The alias of the model in LORA_MODEL_ID."""

USUAL_SECONDS: Final = 10.0
"""How long a model usually takes, until one has been measured."""

MAX_NAMES: Final = 100
"""Models of one request that are not declared."""

_NAME: Final = re.compile(r"[A-Za-z0-9][\w.-]{0,99}/[A-Za-z0-9][\w.-]{0,99}")
_SHORT_ID: Final = re.compile(r"[0-9a-f]{7,63}")
_SHORT: Final = "is a part of a version's id; send owner/name, or owner/name: and all 64 hexadecimal digits"
_UNKNOWN_VERSION: Final = (
    "the model of a version alone is not known here: send owner/name: before it, or get it once from "
    "/models/{owner}/{name}/versions/{id} of the API for Replicate's clients"
)
_MOST_TRIED: Final = 10
"""Models of a list at which the id of a version alone is looked up."""

_MOST_NEAR: Final = 3
_MOST_SEARCHED: Final = 50


class AllowedModels:
    """What the server's token may run: `*`, or a list of `registry`, `owner/*` and names."""

    def __init__(
        self,
        patterns: Iterable[str] = ("*",),
        registry: Registry | None = None,
        authenticator: Authenticator | None = None,
    ) -> None:
        self._patterns = {pattern.strip() for pattern in patterns}
        self._registry = registry
        self._authenticator = authenticator

    def restricts(self, caller: Caller) -> bool:
        """Whether there are models that this caller may not run."""
        return self._service_restricts(caller) or (
            caller.kind == "key" and (caller.key is None or bool(caller.key.models))
        )

    def refusal(self, caller: Caller, model: Model) -> str | None:
        """Why this caller may not run the model. None if it may."""
        return self.refusal_of_service(caller, model) or self.refusal_of_key(caller, model)

    def refusal_of_key(self, caller: Caller, model: Model) -> str | None:
        """Why the key of this caller, as it is now, may not run the model. None if it may, and without a key."""
        if caller.kind != "key":
            return None
        known = self._authenticator
        key = caller.key if known is None else known.keys.with_id(caller.id)
        if key is None or key.role not in MAY_GENERATE:
            return "may not be run, since the key was deleted, has expired or has another role now"
        models = {*key.models}
        if not models or models & {model.kind, model.tier, *_patterns_of(model)}:
            return None
        return "may not be run with this key"

    def named(self, caller: Caller) -> Sequence[Target]:
        """The models `owner/name`, some with a version, that the lists which bound this caller name."""
        patterns = [*(caller.key.models if caller.key else ())]
        if self._service_restricts(caller):
            patterns += sorted(self._patterns)
        targets = map(Target.parse, dict.fromkeys(patterns))
        return [each for each in targets if is_model_name(each.name)]

    def refusal_of_service(self, caller: Caller, model: Model) -> str | None:
        """Why this service's token may not run the model for this caller. None if it may."""
        if not self._service_restricts(caller) or model.provider not in {CREATIONS, TRAININGS}:
            return None
        is_declared = self._registry is not None and self._registry.find(model.name) is model
        if self._patterns & _patterns_of(model) or (is_declared and "registry" in self._patterns):
            return None
        why = f", and {_UNKNOWN_VERSION}" if is_version(model.name) else ""
        return f"may not be run with the token of this service (MODELS_ALLOWED){why}"

    def _service_restricts(self, caller: Caller) -> bool:
        return caller.uses_server_token and "*" not in self._patterns


def _patterns_of(model: Model) -> set[str]:
    """The patterns that name a model: `owner/*`, and its names with and without the version."""
    owner = model.name.removeprefix("deployments/").partition("/")[0]
    versioned = f"{model.name}:{model.version}" if model.version else model.name
    return {model.name, versioned, f"{owner}/*", *model.names}


class Resolver:
    """The models of requests. Every method is called on the loop."""

    def __init__(
        self,
        *,
        registry: Registry,
        published: PublishedModels[Published],
        allowed: AllowedModels,
        tariff: Tariff = PUBLISHED,
        lora: str | None = None,
        trained: TrainedModels = NO_TRAINED_MODELS,
        word_of: WordOf | None = None,
        simulated: bool = False,
    ) -> None:
        self._registry = registry
        self._published = published
        self._allowed = allowed
        self._tariff = tariff
        self._lora = lora
        self._trained = trained
        self._word_of = word_of
        self._simulated = simulated

    def must_resolve(self, names: Iterable[str], caller: Caller) -> bool:
        """Whether `resolve` would find anything. Call it in any thread."""
        models = [self._registry.find(name) for name in names]
        return any(
            each is None or self._allowed.refusal_of_service(caller, each) is not None for each in models
        )

    def restricts(self, caller: Caller) -> bool:
        """Whether there are models that the operator does not let this caller run. Call it in any thread."""
        return self._allowed.restricts(caller)

    def may_run(self, caller: Caller, model: Model) -> bool:
        """Whether the operator lets this caller run the model. Call it in any thread."""
        return self._allowed.refusal(caller, model) is None

    def check_key(self, caller: Caller, models: Mapping[str, Model]) -> None:
        """Raises ModelNotAllowed if the key of the caller may not run one of these models, which are by the names that
        the request uses. Call it in any thread."""
        refused = sorted(
            name for name, each in models.items() if self._allowed.refusal_of_key(caller, each) is not None
        )
        if refused and caller.key is not None:
            is_unknown = any(is_version(models[name].name) for name in refused)
            why = f" Also, {_UNKNOWN_VERSION}." if is_unknown else ""
            raise ModelNotAllowed(
                f"{', '.join(each[:200] for each in refused[:_MOST_NEAR])} may not be run with this key. It may use "
                f"{', '.join(caller.key.models)}.{why}"
            )

    async def resolve(
        self, names: Iterable[str], caller: Caller, *, by_id: bool = False
    ) -> Mapping[str, Model | str]:
        """The models of these names that are not in the registry, or why a name leads to no model. A name of no known
        form is left out, and so are declared models that may be run. With `by_id`, the id of a version that is not
        known here leads to a model that takes any input. Raises ServiceError if Replicate does not answer, and
        LedgerDown."""
        distinct = list(dict.fromkeys(names))
        others = [name for name in distinct if self._registry.find(name) is None]
        if len(others) > MAX_NAMES:
            return dict.fromkeys(others, f"is one of more than {MAX_NAMES} models that are not declared")
        found = await asyncio.gather(*(self._find_with_word(name, caller) for name in others))
        resolved = {name: each for name, each in zip(others, found, strict=True) if each is not None}
        if by_id:
            unknown = (name for name in resolved if is_version(name) and isinstance(resolved[name], str))
            resolved |= {name: self._unknown(name) for name in unknown}
        declared = {name: model for name in distinct if (model := self._registry.find(name)) is not None}
        for name, each in {**declared, **resolved}.items():
            if isinstance(each, Model) and (refusal := self._allowed.refusal_of_service(caller, each)):
                resolved[name] = refusal
        return resolved

    async def find(self, name: str, caller: Caller) -> Model | str | None:
        """A model that is not declared, or why this name leads to no model. None if it has no known form. Raises as
        `resolve`."""
        if name == LORA:
            if self._lora is None:
                return "is no model here, since LORA_MODEL_ID is not set"
            name = self._lora
            if (declared := self._registry.find(name)) is not None:
                return declared
        if is_version(name):
            known_version = await self._published.version(caller, name)
            known_version = known_version or await self._version_of_named(caller, name)
            if known_version is None:
                return "is a version that is not known here; send owner/name: before it"
            return await self._model_to_run(known_version, caller)
        target = Target.parse(name)
        plain = target.deployment or target.name
        base, colon, version = plain.partition(":")
        if not _NAME.fullmatch(base):
            return _SHORT if _SHORT_ID.fullmatch(name) else None
        if colon:
            return await self._no_version(base, version, caller)
        known = await self._published.facts(caller, str(target))
        return (
            await self._missing(target, caller)
            if known.is_missing
            else await self._model_to_run(known, caller)
        )

    def model_of(self, known: Known[Published]) -> Model | str:
        """The model that was looked up, or why it does not run."""
        if known.version is None:
            return "has no version at Replicate yet"
        return self._tariff.priced(published_model(known))

    def restored(self, queries: Queries, name: str, version: str | None, caller: Caller) -> Model | None:
        """The model of a request that was accepted before, with the version that was pinned. None if the name is
        declared or has no known form. Call it in any thread. Raises LedgerDown."""
        if self._registry.find(name) is not None:
            return None
        if name == LORA:  # the setting may have changed since
            name = version or self._lora or name
            if (declared := self._registry.find(name)) is not None:
                return declared
        if is_version(name):
            row = queries.schema(name, simulated=self._simulated)
            if row is None and self._lora is None:
                return self._unknown(name)
            name = f"{row.model if row else self._lora_name}:{name}"
        target = Target.parse(name)
        if not _NAME.fullmatch(target.deployment or target.name):
            return None
        pinned = version or target.version
        known = self._published.stored(queries, caller, str(target), pinned)
        if (
            known.is_official and target.version is not None and version is None
        ):  # it was accepted by its name
            latest = self._published.stored(queries, caller, target.name, None)
            return self._tariff.priced(published_model(latest))
        if known.form is None and pinned and (guess := self._of_family(Target(target.name, pinned))):
            return guess
        return self._tariff.priced(published_model(known))

    async def _version_of_named(self, caller: Caller, version: str) -> Known[Published] | None:
        """The version of this id, if it is one of a model that a list which bounds this caller names."""
        named = (each.name for each in self._allowed.named(caller) if each.version in {None, version})
        others = [
            name for name in named if self._registry.find(name) is None
        ]  # declared ones run by their names
        for name in others[:_MOST_TRIED]:
            known = await self._published.facts(caller, str(Target(name, version)))
            if not known.is_missing:
                return known
        return None

    async def _model_to_run(self, known: Known[Published], caller: Caller) -> Model | str:
        """The model that was looked up. An official one runs by its name, whichever version was named."""
        target = Target.parse(known.name)
        if target.version is None or not known.is_official:
            return self.model_of(known)
        latest = await self._published.facts(caller, target.name)
        return self.model_of(known) if not latest.is_official else _by_name(self.model_of(latest), target)

    @property
    def _lora_name(self) -> str:
        return Target.parse(self._lora or "unknown/model").name

    async def _find_with_word(self, name: str, caller: Caller) -> Model | str | None:
        """As `_find_or_guess`. A model that was trained here has its trigger word."""
        found = await self._find_or_guess(name, caller)
        if self._word_of is None or not isinstance(found, Model) or found.version is None:
            return found
        word = await self._word_of(found.version)
        return found if word is None else replace(found, trigger_word=word)

    async def _find_or_guess(self, name: str, caller: Caller) -> Model | str | None:
        """As `find`. If Replicate does not answer, a trained model that the operator has named is like its family."""
        try:
            return await self.find(name, caller)
        except ServiceError as error:
            asked = self._lora if name == LORA else name
            guess = self._of_family(Target.parse(asked)) if asked and error.retryable else None
            if guess is None or isinstance(error, LedgerDown):
                raise
            return guess

    def _of_family(self, asked: Target) -> Model | None:
        """A trained model that the operator has named, in the version to run, with the inputs of its family."""
        target = self._trained.target(asked)
        if target is None:
            return None
        known = Known(
            name=str(target), looked_up_at=0.0, version=target.version, form=trained_flux(), is_official=False
        )
        return self._tariff.priced(replace(published_model(known), unread=told_unread(target.name)))

    def _unknown(self, version: str) -> Model:
        """The model of a version of which only the id is known: it takes any input, and may be private."""
        known: Known[Published] = Known(
            name=version, looked_up_at=0.0, version=version, is_official=True, is_private=True
        )
        return self._tariff.priced(published_model(known))

    async def _no_version(self, name: str, given: str, caller: Caller) -> str:
        """The message about a version that is no id."""
        latest = await self._latest(name, caller)
        return f"has {given[:64] or 'nothing'} for a version, and a version is 64 hexadecimal digits{latest}"

    async def _missing(self, target: Target, caller: Caller) -> str:
        """The message about a model that this caller's token cannot read."""
        if target.version is not None and (latest := await self._latest(target.name, caller)):
            return f"names a version that this token cannot read{latest}"
        kind = "deployment" if target.deployment else "model"
        owner = target.name.removeprefix("deployments/").partition("/")[0]
        looked_up = await self._published.search(owner, limit=_MOST_SEARCHED)
        names = dict.fromkeys(
            [each.name.partition(":")[0] for each in looked_up] + self._registry.nearest_first(target.name)
        )
        near = ", ".join(get_close_matches(target.name, names, n=_MOST_NEAR, cutoff=0.0))
        return f"is no {kind} at Replicate that this token can read; the nearest that are known here: {near}"

    async def _latest(self, name: str, caller: Caller) -> str:
        """The latest version of a model as the end of a sentence, empty if there is none."""
        known = await self._published.facts(caller, name)
        return f"; the latest of {name} is {known.version}" if known.version else ""


def published_model(known: Known[Published]) -> Model:
    """The model that was looked up. Its schema may say nothing, and then any input is passed on."""
    form = known.form or Published.of({})
    return Model(
        name=Target.parse(known.name).name,
        aliases=(),
        kind=form.output.kind,
        price=None,
        tier=None,
        credits=0,
        usual_seconds=USUAL_SECONDS,
        document=form.document,
        inputs=form.inputs,
        output=form.output,
        example=known.example or {},
        version=None if known.is_official and ":" not in known.name else known.version,
        bills_setup=known.is_private,
        description=known.description,
        unread=None if form.unread is None else _unread(known.name, form.unread),
    )


def _by_name(model: Model | str, requested: Target) -> Model | str:
    """An official model with the warning that the version of `requested` was left out."""
    if isinstance(model, str):
        return model
    name, version = requested.name, requested.version
    why = f"{name} is an official model, which runs by its name: the version {version} was left out."
    return replace(model, caution=why)


def _unread(name: str, reason: str) -> str:
    """The warning about a schema that could not be read. `reason` is a sentence about the schema."""
    return f"The inputs of {name} are passed on unchecked, since its published schema could not be read: {reason}"
