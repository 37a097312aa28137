"""Reads models from files of JSON. A file is one of these documents:

- a model, as `GET /v1/models/{owner}/{name}` answers it, with `owner`, `name` and `latest_version`;
- a version, with `openapi_schema` and mostly an `id`: of a community model that the file's name tells;
- an OpenAPI document, with `components`: of an official model that the file's name tells.

The name of a file is `owner--name.json`. It can also have the owner of `_OWNERS` after any prefix and in front of the
name, with one dash between: `x-google-veo-3-1-fast.json`. A dash between two digits is then the dot of a version.

A model runs by name if its document says `"is_official": true`, and else by its versions. Facts that Replicate does not
publish are in the field `simulator` of a model. All of it is optional:

    {"kind": "image",                      what its files are; guessed from the schema
     "seconds": 3,                         the usual time of a prediction
     "price": {"usd": 0.03, "per": "image"},   or per "call" or "second"; `by` names inputs that `usd` is a table of
     "hardware": "gpu-h100",               what bills it without a price
     "boot_seconds": 0,                    how long it boots before its first prediction
     "trainer": {"family": "flux", "seconds": 30},   what its trainings make: flux, qwen or sdxl; the usual time of one
     "tokens": ["r8_mine"],                the tokens that see it; null for all
     "versions": [],                       earlier versions, newest first
     "disabled": ["64 digits"],            ids of versions that failed their setup
     "deployments": {"acme/fast": {"hardware": "gpu-l40s", "min_instances": 1, "max_instances": 2}}}
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, get_args

from simulator.model import (
    FAMILIES,
    KINDS,
    Deployment,
    Facts,
    Kind,
    Model,
    Per,
    Price,
    Trainer,
    Version,
)
from simulator.schemas import Schema, id_of

_OWNERS = (
    *("alibaba", "black-forest-labs", "bytedance", "google", "ideogram-ai", "kwaivgi", "lightricks", "luma"),
    *("meta", "minimax", "openai", "pixverse", "prunaai", "qwen", "recraft-ai", "runwayml", "stability-ai"),
    *("topazlabs", "vidu", "wan-video", "xai"),
)
_LOOSE_NAME = re.compile(rf"(?:^|-)({'|'.join(_OWNERS)})-(.+)")
_SHIPPED = Path(__file__).parent / "published"
_AUDIO_NAME, _VIDEO_NAME = re.compile("audio|music|speech|voice"), re.compile("video|avatar")
_VIDEO_INPUTS = {"duration", "seconds", "fps", "num_frames", "frames_per_second", "generate_audio"}
FACTS = frozenset(
    (
        *("kind", "seconds", "price", "hardware", "boot_seconds", "trainer"),
        *("tokens", "versions", "disabled", "deployments"),
    )
)
"""The fields of `simulator` in a document."""

_PAGE = (
    *(
        "url",
        "owner",
        "name",
        "description",
        "visibility",
        "is_official",
        "github_url",
        "paper_url",
        "license_url",
    ),
    *("run_count", "cover_image_url", "default_example"),
)


@cache
def shipped() -> tuple[tuple[Model, tuple[Deployment, ...]], ...]:
    """The models that every simulator has beside those of `catalog`, and their deployments."""
    return tuple(read(path) for path in sorted(_SHIPPED.glob("*.json")))


def read(path: Path, known: Mapping[str, Model] | None = None) -> tuple[Model, tuple[Deployment, ...]]:
    """The model of a file and its deployments. What the file leaves out is as in the model that is `known` by its name.

    Raises:
        ValueError: If it is no such document. The message names the file.
        OSError: If it cannot be read.
    """
    try:
        document = json.loads(path.read_bytes())
        if not isinstance(document, dict):
            raise ValueError("it is not an object")
        return model_of(_whole_document(document, path.stem), known or {})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as reason:
        raise ValueError(f"{path}: {reason}") from reason


def model_of(document: Mapping[str, Any], known: Mapping[str, Model]) -> tuple[Model, tuple[Deployment, ...]]:
    """The model of a whole document, and its deployments. A new version comes in front of those that are known.

    Raises:
        ValueError: If the document or its facts are invalid.
    """
    name = f"{document['owner']}/{document['name']}"
    before, given = known.get(name), document.get("simulator") or {}
    if unknown := given.keys() - FACTS:
        raise ValueError(f"simulator has no {', '.join(sorted(unknown))}")
    versions = [
        _version(each, name) for each in (document.get("latest_version"), *given.get("versions", ())) if each
    ]
    ids = {each.id for each in versions}
    versions += [each for each in (before.versions if before else ()) if each.id not in ids]
    if "disabled" in given:
        versions = [replace(each, is_disabled=each.id in given["disabled"]) for each in versions]
    page = {key: document[key] for key in _PAGE if key in document}
    model = Model(
        name=name,
        versions=tuple(versions),
        page={**(before.page if before else {}), **page},
        facts=_facts(given, before, name, versions[0].schema if versions else Schema({})),
    )
    return model, tuple(_deployments(given.get("deployments") or {}, model))


def _whole_document(document: dict[str, Any], stem: str) -> dict[str, Any]:
    """The document of a model, from one of the three kinds."""
    if isinstance(document.get("owner"), str) and isinstance(document.get("name"), str):
        return document
    owner, name = _name(stem)
    whole = {"owner": owner, "name": name, "visibility": "public"}
    if "openapi_schema" in document:
        return whole | {"latest_version": document, "is_official": False}
    if "components" in document:
        return whole | {"latest_version": {"openapi_schema": document}, "is_official": True}
    raise ValueError("it is no model, no version and no OpenAPI document")


def _name(stem: str) -> tuple[str, str]:
    owner, dashes, name = stem.partition("--")
    if dashes:
        return owner, name
    found = _LOOSE_NAME.search(stem)
    if found is None:
        raise ValueError("its name does not tell the model; call it owner--name.json")
    return found[1], re.sub(r"(?<=\d)-(?=\d)", ".", found[2])


def _version(document: Mapping[str, Any], name: str) -> Version:
    published = document.get("openapi_schema") or {}
    made = Version(str(document.get("id") or id_of(name, published)), Schema(published))
    extras = {key: document[key] for key in ("created_at", "cog_version") if key in document}
    return replace(made, **extras)


def _facts(given: Mapping[str, Any], before: Model | None, name: str, schema: Schema) -> Facts:
    facts = before.facts if before else _guessed(name, schema)
    changes = {key: given[key] for key in ("kind", "seconds", "hardware", "boot_seconds") if key in given}
    if changes.get("kind", facts.kind) not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {changes['kind']!r}")
    for key in ("seconds", "boot_seconds"):
        _check_seconds(key, changes.get(key, 0))
    if "tokens" in given:
        changes["tokens"] = _tokens(given["tokens"])
    if "price" in given:
        changes["price"] = _price(given["price"])
    if "trainer" in given:
        changes["trainer"] = _trainer(given["trainer"])
    return replace(facts, **changes)


def _check_seconds(key: str, value: Any) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 3600:
        raise ValueError(f"{key} must be between 0 and 3600, got {value!r}")


def _trainer(fields: Mapping[str, Any]) -> Trainer:
    made = Trainer(**fields)
    if made.family not in FAMILIES:
        raise ValueError(f"family must be one of {', '.join(FAMILIES)}, got {made.family!r}")
    _check_seconds("the seconds of a trainer", made.seconds)
    return made


def _guessed(name: str, schema: Schema) -> Facts:
    """The facts of a model of which only the schema is known."""
    said = json.dumps(schema.document.get("components")).lower()
    output, films = json.dumps(schema.output), said.count("video")
    kind: Kind = "image"
    if _AUDIO_NAME.search(name):
        kind = "audio"
    elif _VIDEO_NAME.search(name) or _VIDEO_INPUTS & schema.inputs.keys() or films > said.count("image"):
        kind = "video"
    if schema.output.get("type") == "object":
        kind = "data"
    elif "type" in schema.output and '"uri"' not in output:
        kind = "text" if schema.output["type"] == "string" or "concatenate" in output else "data"
    return Facts(kind=kind, seconds=20.0 if kind == "video" else 3.0)


def _price(given: Any) -> Price | None:
    if given is None:
        return None
    price = Price(given["usd"], given["per"], tuple(given.get("by", ())))
    if price.per not in get_args(Per):
        raise ValueError(f"a price is per {', '.join(get_args(Per))}, got {price.per!r}")
    return price


def _tokens(given: Iterable[str] | None) -> frozenset[str] | None:
    return None if given is None else frozenset(given)


def _deployments(given: Mapping[str, Any], model: Model) -> Iterable[Deployment]:
    for name, facts in given.items():
        owner, slash, rest = name.partition("/")
        if not (owner and slash and rest):
            raise ValueError(f"a deployment is called owner/name, got {name!r}")
        release = {"version": model.version} | facts
        if "tokens" in release:
            release["tokens"] = _tokens(release["tokens"])
        yield Deployment(name=name, model=model.name, **release)
