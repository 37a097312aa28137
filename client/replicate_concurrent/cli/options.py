"""The options that several commands have, and the values of `-p name=value`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print the service's own answer, unchanged.")]

Parameters = Annotated[
    list[str] | None,
    typer.Option("-p", "--param", metavar="NAME=VALUE", help="A parameter of the model; may be repeated."),
]

Since = Annotated[str | None, typer.Option(help="From this date or time on (UTC), such as 2026-11-21.")]


def parameters(listed: list[str] | None) -> dict[str, Any]:
    """The parameters of `-p`, as texts. Raises BadParameter."""
    found: dict[str, Any] = {}
    for each in listed or []:
        name, equals, value = each.partition("=")
        if not equals or not name.strip():
            raise typer.BadParameter(f"{each!r} must be NAME=VALUE", param_hint="-p")
        found[name.strip()] = value
    return found


def number_or_none(text: str) -> int | None:
    """A limit: a whole number, or `none` for that of the environment or of no limit. Raises BadParameter."""
    if text.lower() in ("none", "null"):
        return None
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} must be a whole number or none") from None
