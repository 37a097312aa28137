"""Drift: a command that reports every difference between the registry and the input schemas of Replicate.

    python -m models --check                      asks Replicate for every model, with the token of the settings
    python -m models --check flux-dev.json …      reads saved documents; `-` is the standard input

A file holds a response to `GET /v1/models/{owner}/{name}`, a version with its `openapi_schema`, an `openapi_schema`
alone, or only the input schema, as replicate.com/<owner>/<name>/api/schema shows it. Only the first names its model.
For the others the file's name does (`flux-dev.json`, `qwen--qwen-image.json`), or `NAME=` before it.

The registry's schema is the published one as it was saved (`schemas/`). Both are first normalized (`plain_schema.py`).
An unknown keyword is compared unchanged, so that new keywords are reported. Titles, descriptions, examples and order
are ignored, and so is null where it means no value. What a declaration adds to its schema is no difference: limits and
rules that the model states in words only, and defaults that the service sends in place of the model's.

The exit status is 0 if all agree, 1 if some differ, 2 if some could not be checked.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from catalog.model import Model
from catalog.plain_schema import NoInputs, PlainSchemas, canonical
from catalog.registry import Registry
from settings import Settings, SettingsError, load

AGREE, DIFFER, UNCHECKED = 0, 1, 2
"""The exit statuses. As with diff(1), a failed check outweighs a difference."""

MAX_DOCUMENT = 8 * 1024 * 1024
"""The most bytes of a document, more than any schema with examples has."""

TIMEOUT = 10.0
"""Seconds for each step of a request to Replicate."""


class CannotCheck(Exception):
    """A model cannot be checked. The message is a sentence."""


def main(arguments: Sequence[str], registry: Registry, *, load: Callable[[], Settings] = load) -> int:
    """The command: writes differences to stdout, one a line, and failed checks to stderr. Returns the exit status.

    Raises SystemExit as argparse does.
    """
    parser = argparse.ArgumentParser("python -m models", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--check", nargs="*", required=True, metavar="[NAME=]SCHEMA.json")
    files = parser.parse_args(arguments).check
    agreeing, status = set[str](), AGREE
    for outcome in _of_files(files, registry) if files else _of_replicate(registry, load):
        if isinstance(outcome, CannotCheck):
            sys.stderr.write(f"{outcome}\n")
            status = UNCHECKED
            continue
        model, found = outcome
        sys.stdout.writelines(f"{line}\n" for line in found)
        status = max(status, DIFFER if found else AGREE)
        agreeing |= set() if found else {model.name}
    if agreeing:
        sys.stdout.write(f"{len(agreeing)} model{' agrees' if len(agreeing) == 1 else 's agree'}.\n")
    return status


def differences(model: Model, schema: Mapping[str, Any]) -> list[str]:
    """The differences between a published OpenAPI document and the registry, for the inputs of one model: lines
    `model: parameter: difference`. Raises CannotCheck if the document describes no inputs."""
    try:
        theirs, they_require, their_rest = PlainSchemas(schema).inputs()
    except NoInputs as reason:
        raise CannotCheck(str(reason)) from None
    ours, we_require, our_rest = PlainSchemas(model.document).inputs()
    found = []
    for name, input_ in theirs.items():
        if name not in ours:
            does = "requires" if name in they_require else "takes"
            found.append((name, f"the registry lacks this input, which Replicate {does}: {_shown(input_)}"))
            continue
        found += [(name, what) for what in _unlike(_without_null(input_), _without_null(ours[name]))]
        if (name in they_require) != (name in we_require):
            found.append((name, f"required: {_both_sides(name in they_require, name in we_require)}"))
    found += [(name, "Replicate lacks this input of the registry's") for name in ours if name not in theirs]
    if their_rest.get("additionalProperties") is False:  # the service refuses unknown parameters anyway
        del their_rest["additionalProperties"]
    spoken_of = {keyword: value for keyword, value in our_rest.items() if keyword in their_rest}
    found += [("Input", what) for what in _unlike(their_rest, spoken_of)]
    return [f"{model.name}: {_shown(name)[1:-1]}: {what}" for name, what in found]


def _without_null(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema without `nullable`, unless it has a default: null then means the same as no value."""
    return {key: value for key, value in schema.items() if key != "nullable" or "default" in schema}


_KNOWN = {
    "type", "format", "default", "enum", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum",
    "minLength", "minItems", "uniqueItems", "items", "deprecated",
    "nullable", "pattern", "maxLength", "maxItems", "multipleOf",
}  # fmt: skip


def _unlike(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Iterator[str]:
    for keyword in sorted(theirs.keys() | ours.keys()):
        there, here = theirs.get(keyword), ours.get(keyword)
        if canonical(there) == canonical(here):
            continue
        if keyword == "items" and isinstance(there, dict) and isinstance(here, dict):
            yield from (f"each item's {what}" for what in _unlike(there, here))
        elif keyword == "enum" and isinstance(there, list) and isinstance(here, list):
            sides = (("added at Replicate", there, here), ("gone at Replicate", here, there))
            changes = [f"{side}: {', '.join(which)}" for side, *both in sides if (which := _only_in(*both))]
            yield from [f"choices: {'; '.join(changes)}"] if changes else []
        else:
            unknown = "" if keyword in _KNOWN else " (a keyword that this check does not understand)"
            yield f"{'choices' if keyword == 'enum' else _shown(keyword)[1:-1]}: {_both_sides(there, here)}{unknown}"


def _only_in(these: list[Any], those: list[Any]) -> list[str]:
    known = {canonical(choice) for choice in those}
    return [_shown(choice) for choice in these if canonical(choice) not in known]


def _both_sides(there: Any, here: Any) -> str:
    sides = ("none" if side is None else _shown(side) for side in (there, here))
    return "{} at Replicate, {} in the registry".format(*sides)


def _shown(value: Any) -> str:
    text = json.dumps(value)  # always ASCII and one line
    return text if len(text) <= 200 else f"{text[:200]}..."


Outcome = tuple[Model, list[str]] | CannotCheck


class _NoneCanBeChecked(CannotCheck):
    """No further model can be checked, so the command ends."""


def _of_files(files: Sequence[str], registry: Registry) -> Iterator[Outcome]:
    for file in files:
        try:
            yield _of_file(file, registry)
        except CannotCheck as reason:
            yield CannotCheck(f"{file}: {reason}")


def _of_file(file: str, registry: Registry) -> tuple[Model, list[str]]:
    name, equals, path = file.rpartition("=")
    model = _called(registry, name)
    if equals and model is None:
        names = ", ".join(each.name for each in registry.models)
        raise CannotCheck(f"there is no model called {name}; there are {names}.")
    named, schema = _opened(_read(path))
    if model is None:
        model = registry.find(named) if named else _called(registry, Path(path).stem, Path(path).name)
    return _compared(model, named, schema)


def _read(path: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read(MAX_DOCUMENT + 1)
        with Path(path).open("rb") as file:
            return file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise CannotCheck(f"it cannot be read: {error.strerror}.") from None


def _called(registry: Registry, *texts: str) -> Model | None:
    """The model of this name or alias, or the only one of this owner and name, or of this name without its owner."""

    def loose(*names: str) -> set[str]:
        return {re.sub("[^A-Za-z0-9]+", "-", name) for name in names}

    exact = [it for it in registry.models if {*texts} & {*it.names}]
    found = exact or [it for it in registry.models if loose(*texts) & loose(it.name, it.name.split("/")[-1])]
    return found[0] if len(found) == 1 else None


def _of_replicate(registry: Registry, load: Callable[[], Settings]) -> Iterator[Outcome]:
    try:
        settings = load()
        headers = {"Authorization": f"Bearer {_token(settings)}"}
    except (CannotCheck, SettingsError) as reason:
        yield CannotCheck(str(reason))
        return
    # Follow no redirect and use only the configured proxy, so that the token goes only to the configured base URL.
    proxy = settings.proxies.for_url(settings.REPLICATE_BASE_URL)
    via = httpx.Proxy(proxy.url, headers=dict(proxy.headers)) if proxy else None
    tls = httpx.create_ssl_context()
    with httpx.Client(headers=headers, timeout=TIMEOUT, trust_env=False, verify=tls, proxy=via) as client:
        for model in registry.models:
            try:
                body = _fetched(client, f"{settings.REPLICATE_BASE_URL}/v1/models/{model.name}")
                yield _compared(model, *_opened(body))
            except _NoneCanBeChecked as reason:
                yield reason
                return
            except CannotCheck as reason:
                yield CannotCheck(f"{model.name}: {reason}")


def _token(settings: Settings) -> str:
    if settings.needs_simulator:
        raise CannotCheck("REPLICATE_SIMULATE is set, so Replicate is not asked; unset it, or give files.")
    if settings.replicate_token is None:
        raise CannotCheck("REPLICATE_API_TOKEN is not set, so Replicate is not asked; set it, or give files.")
    return settings.replicate_token


def _fetched(client: httpx.Client, url: str) -> bytes:
    """The body of a response, cut off after `MAX_DOCUMENT`."""
    body = b""
    try:
        with client.stream("GET", url) as answer:
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_DOCUMENT:
                    break
    except (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL) as error:
        raise _NoneCanBeChecked(f"REPLICATE_BASE_URL cannot be reached: {error}.") from None
    except httpx.HTTPError as error:
        raise CannotCheck(f"no whole answer came ({type(error).__name__}).") from None
    status = answer.status_code
    if status in (401, 403):
        raise _NoneCanBeChecked(f"Replicate refused the token ({status}): check REPLICATE_API_TOKEN.")
    if status == 404:
        raise CannotCheck("Replicate has no model of this name (404).")
    if status != 200:
        raise CannotCheck(f"Replicate answered {status}.")
    return body


def _opened(body: bytes) -> tuple[str | None, Mapping[str, Any]]:
    """The model's name, if the document has one, and its OpenAPI document."""
    if len(body) > MAX_DOCUMENT:
        raise CannotCheck(f"it is larger than {MAX_DOCUMENT} bytes.")
    try:
        document = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise CannotCheck(f"it cannot be read as JSON: {error}.") from None
    match document:
        case {"owner": str(owner), "name": str(name), "latest_version": {"openapi_schema": dict(schema)}}:
            return f"{owner}/{name}", schema
        case {"latest_version": {"openapi_schema": dict(schema)}} | {"openapi_schema": dict(schema)}:
            return None, schema
        case {"components": dict()}:
            return None, document
        case {"properties": dict()}:
            return None, {"components": {"schemas": {"Input": document}}}
    raise CannotCheck("it holds no model with a latest_version, no version and no openapi_schema.")


def _compared(model: Model | None, named: str | None, schema: Mapping[str, Any]) -> tuple[Model, list[str]]:
    if model is None and named is None:
        raise CannotCheck(
            "it does not say which model it is of; put the model's name and = before the file's."
        )
    if model is None:
        raise CannotCheck(f"it is of {_shown(named)}, which the registry does not have.")
    if named not in {None, model.name}:
        raise CannotCheck(f"it is of {_shown(named)}, not of {model.name}.")
    try:
        return model, differences(model, schema)
    except RecursionError:
        raise CannotCheck("it is nested too deeply.") from None
