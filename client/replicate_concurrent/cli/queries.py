"""The commands about the service itself: `models`, `usage`, `status` and `configure`."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from replicate_concurrent.cli.options import Json, Since, number_or_none
from replicate_concurrent.cli.session import Session, facts, report, table, usd


def models(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A model, to see its parameters.")] = None,
    search: Annotated[str | None, typer.Option(help="Also models at Replicate with these words.")] = None,
    json: Json = False,
) -> None:
    """List the models, or the parameters of one.

    Example: rcg models flux-dev
    """
    session: Session = context.obj
    session.json = json
    with session.client() as client:
        if name is None:
            query = None if search is None else {"search": search}
            body = session.answer(client.request("GET", "/models", params=query))
            if body is not None:
                _list_models(body)
            return
        from replicate_concurrent.batches.planning import model_path

        body = session.answer(client.request("GET", model_path(name)))
        if body is not None:
            _show_model(body)


def usage(
    context: typer.Context,
    since: Since = None,
    until: Annotated[str | None, typer.Option(help="Before this date or time (UTC).")] = None,
    group_by: Annotated[
        str, typer.Option(help="model, day, key, tag:NAME or metadata:NAME; two with a comma.")
    ] = "model",
    json: Json = False,
) -> None:
    """Add up what past work has cost.

    Example: rcg usage --since 2026-11-01 --group-by model
    """
    session: Session = context.obj
    session.json = json
    filters = {"since": since, "until": until, "group_by": group_by}
    query = {name: value for name, value in filters.items() if value is not None}
    with session.client() as client:
        body = session.answer(client.request("GET", "/usage", params=query))
    if body is None:
        return
    groups = group_by.split(",")
    figures = ["generations", "succeeded", "failures", "canceled"]
    total = body.get("total") or {}
    if total.get("calls"):
        figures += ["calls", "prompt_tokens", "completion_tokens", "thinking_tokens"]
    if total.get("trainings"):
        figures += ["trainings", "training_usd"]
    listed = [*(body.get("usage") or []), dict.fromkeys(groups, "") | {groups[0]: "total"} | total]
    table(
        [*groups, *figures, "USD"],
        ([*(_group(each, name) for name in groups), *(each.get(name) for name in figures), usd(each.get("usd"))]
         for each in listed),
    )  # fmt: skip


def status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", help="Show it live, until Ctrl-C.")] = False,
    json: Json = False,
) -> None:
    """Show slots, window and queue of the service.

    Example: rcg status --watch
    """
    session: Session = context.obj
    session.json = json
    with session.client() as client:
        if not watch:
            body = session.answer(client.request("GET", "/status"))
            if body is not None:
                facts(_status(body))
            return
        if json or not sys.stdout.isatty():
            while True:
                session.json = True
                session.answer(client.request("GET", "/status"))
                time.sleep(1)
        from replicate_concurrent.cli.screen import live_status

        session.json = False
        live_status(lambda: _status(session.answer(client.request("GET", "/status")) or {}))


def configure(
    context: typer.Context,
    concurrent_limit: Annotated[
        str | None, typer.Option(metavar="N|none", help="Slots: predictions at once.")
    ] = None,
    requests_per_minute: Annotated[
        str | None, typer.Option(metavar="N|none", help="The window: creations in any 60 seconds.")
    ] = None,
    json: Json = False,
) -> None:
    """Change the limits of the service, for an administrator; none returns to those of its environment.

    Example: rcg configure --concurrent-limit 20
    """
    session: Session = context.obj
    session.json = json
    changes = {"concurrent_limit": concurrent_limit, "requests_per_minute": requests_per_minute}
    limits = {name: number_or_none(value) for name, value in changes.items() if value is not None}
    if not limits:
        raise typer.BadParameter("name a limit: --concurrent-limit or --requests-per-minute")
    with session.client() as client:
        body = session.answer(client.request("POST", "/configure", json=limits))
    if body is not None:
        facts(_status(body))
        report("The limits hold at once.")


def _list_models(body: Mapping[str, Any]) -> None:
    table(
        ["model", "kind", "price", "aliases"],
        ([each.get("name"), each.get("kind"), price_of(each), ", ".join(each.get("aliases") or [])]
         for each in [*(body.get("models") or []), *(body.get("others") or [])]),
    )  # fmt: skip


def _show_model(body: Mapping[str, Any]) -> None:
    facts([
        ("model", body.get("name")), ("aliases", ", ".join(body.get("aliases") or []) or None),
        ("kind", body.get("kind")), ("price", price_of(body) or None), ("version", body.get("version")),
    ])  # fmt: skip
    from replicate_concurrent.cli.parameters import described

    table(["parameter", "type", "default", "description"], described(body.get("input_schema") or {}))


def price(price: Any) -> str:
    """A price for people."""
    if not isinstance(price, Mapping):
        return ""
    amounts = [
        each["usd"] for each in [price, *(price.get("by") or [])] if isinstance(each.get("usd"), (int, float))
    ]
    if not amounts:
        return ""
    least, most = usd(min(amounts)), usd(max(amounts))
    return f"{least if least == most else f'{least} to {most}'} USD/{price.get('per', 'call')}"


def price_of(model: Mapping[str, Any]) -> str:
    """The price of a model for people; that of a text model as it is today (UTC)."""
    listed = [each for each in model.get("usd_per_million_tokens") or [] if isinstance(each, Mapping)]
    today = time.strftime("%Y-%m-%d", time.gmtime())
    in_force = [each for each in listed if str(each.get("since") or "") <= today]
    if not in_force:
        return price(model.get("price"))
    return f"{usd(in_force[-1].get('prompt'))} in, {usd(in_force[-1].get('answer'))} out USD/million tokens"


def _group(entry: Mapping[str, Any], name: str) -> object:
    value = entry.get(name)
    return value.get("name") or value.get("id") if isinstance(value, Mapping) else value


def _status(body: Mapping[str, Any]) -> list[tuple[str, object]]:
    gate: Mapping[str, Any] = body.get("concurrency") or {}
    waits = body.get("oldest_waiting_seconds")
    ended = body.get("generations") or {}
    trainings = body.get("trainings") or {}
    return [
        ("service", f"{body.get('version') or ''}{' (simulated)' if body.get('simulated') else ''}".strip() or None),
        ("ledger", body.get("ledger")),
        ("slots", _of(gate.get("current_concurrent"), gate.get("concurrent_limit"))),
        ("window", _of(gate.get("current_rate_per_minute"), gate.get("requests_per_minute_limit"), "in 60 s")),
        ("waiting", gate.get("waiting")),
        ("trainings", _of(trainings.get("running"), trainings.get("at_once"), f"({trainings.get('waiting')} waiting)")),
        ("longest wait", None if waits is None else f"{waits:.0f} s"),
        ("budget left", usd(body.get("budget_left_usd"))),
        ("ended", ", ".join(f"{count} {state}" for state, count in ended.items() if isinstance(count, int)) or None),
    ]  # fmt: skip


def _of(used: object, limit: object, unit: str = "") -> str | None:
    return None if limit is None else f"{used} of {limit} {unit}".rstrip()
