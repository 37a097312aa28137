"""`rcg keys`: the named keys of the service, for its administrators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from replicate_concurrent.cli.options import Json, number_or_none, parameters
from replicate_concurrent.cli.session import Session, facts, report, table

app = typer.Typer(
    help="Make, change, rotate and delete named keys.\n\nExample: rcg keys list",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Id = Annotated[str, typer.Argument(help="The id of a key (key_…).")]
Role = Annotated[str | None, typer.Option(help="caller, viewer, metrics or admin.")]
Limit = Annotated[str | None, typer.Option(metavar="N|none", help="Predictions at once.")]
PerMinute = Annotated[str | None, typer.Option(metavar="N|none", help="Creations in any 60 seconds.")]
Queued = Annotated[str | None, typer.Option(metavar="N|none", help="Generations that may wait.")]
Budget = Annotated[str | None, typer.Option(metavar="USD|none", help="USD in each --budget-period.")]
Period = Annotated[str | None, typer.Option(help="day, week or month.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="What it may run; may be repeated; none for all.")
]
Safety = Annotated[str | None, typer.Option(metavar="on|off", help="Whether its prompts are checked.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", metavar="NAME=VALUE", help="May be repeated.")]
Expires = Annotated[
    str | None, typer.Option(metavar="TIME|none", help="RFC 3339, such as 2027-01-01T00:00:00Z.")
]


@app.command("list")
def list_keys(context: typer.Context, json: Json = False) -> None:
    """List the keys.

    Example: rcg keys list
    """
    session: Session = context.obj
    session.json = json
    with session.client() as client:
        body = session.answer(client.request("GET", "/keys", params={"limit": 200}))
    if body is not None:
        columns = (
            "id",
            "name",
            "role",
            "prefix",
            "max_concurrent",
            "budget_usd",
            "budget_period",
            "expires_at",
        )
        table(columns, ([each.get(column) for column in columns] for each in body.get("keys") or []))


@app.command()
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="For people.")],
    role: Role = None,
    max_concurrent: Limit = None,
    requests_per_minute: PerMinute = None,
    max_queued: Queued = None,
    budget_usd: Budget = None,
    budget_period: Period = None,
    model: Models = None,
    safety: Safety = None,
    tag: Tags = None,
    expires_at: Expires = None,
    json: Json = False,
) -> None:
    """Make a key. Only this answer has its text.

    Example: rcg keys create shop --max-concurrent 5 --budget-usd 20 --budget-period day
    """
    limits = {
        "max_concurrent": max_concurrent,
        "requests_per_minute": requests_per_minute,
        "max_queued": max_queued,
    }
    others = {
        "name": name, "role": role, "budget_period": budget_period, "safety": safety, "expires_at": expires_at,
    }  # fmt: skip
    _sent(context, "POST", "/keys", _fields(limits, others, budget_usd, model, tag), json=json)


@app.command()
def get(context: typer.Context, id: Id, json: Json = False) -> None:  # noqa: A002 - the service's name for it
    """Show a key.

    Example: rcg keys get key_0123
    """
    _sent(context, "GET", f"/keys/{id}", None, json=json)


@app.command()
def update(
    context: typer.Context,
    id: Id,  # noqa: A002 - the service's name for it
    name: Annotated[str | None, typer.Option(help="For people.")] = None,
    role: Role = None,
    max_concurrent: Limit = None,
    requests_per_minute: PerMinute = None,
    max_queued: Queued = None,
    budget_usd: Budget = None,
    budget_period: Period = None,
    model: Models = None,
    safety: Safety = None,
    tag: Tags = None,
    expires_at: Expires = None,
    json: Json = False,
) -> None:
    """Change a key; none ends a limit.

    Example: rcg keys update key_0123 --max-concurrent none
    """
    limits = {
        "max_concurrent": max_concurrent,
        "requests_per_minute": requests_per_minute,
        "max_queued": max_queued,
    }
    others = {
        "name": name, "role": role, "budget_period": budget_period, "safety": safety, "expires_at": expires_at,
    }  # fmt: skip
    changes = _fields(limits, others, budget_usd, model, tag)
    if not changes:
        raise typer.BadParameter("name what to change, such as --max-concurrent 5")
    _sent(context, "PATCH", f"/keys/{id}", changes, json=json)


@app.command()
def rotate(
    context: typer.Context,
    id: Id,  # noqa: A002 - the service's name for it
    grace_seconds: Annotated[int, typer.Option(min=0, help="For how long the old text is accepted.")] = 0,
    json: Json = False,
) -> None:
    """Give a key a new text. Only this answer has it.

    Example: rcg keys rotate key_0123 --grace-seconds 3600
    """
    _sent(context, "POST", f"/keys/{id}/rotate", {"grace_seconds": grace_seconds}, json=json)


@app.command()
def delete(context: typer.Context, id: Id, json: Json = False) -> None:  # noqa: A002 - the service's name for it
    """Delete a key. Its waiting work is cancelled.

    Example: rcg keys delete key_0123
    """
    _sent(context, "DELETE", f"/keys/{id}", None, json=json)


@app.command("self")
def own(context: typer.Context, json: Json = False) -> None:
    """Show the key that this command has, and how much of its limits is used.

    Example: rcg keys self
    """
    _sent(context, "GET", "/keys/self", None, json=json)


def _fields(
    limits: Mapping[str, str | None],
    others: Mapping[str, str | None],
    budget: str | None,
    models: list[str] | None,
    tags: list[str] | None,
) -> dict[str, Any]:
    """The fields that the options name; `none` is null. Raises BadParameter."""
    found: dict[str, Any] = {
        name: number_or_none(value) for name, value in limits.items() if value is not None
    }
    found |= {name: None if value == "none" else value for name, value in others.items() if value is not None}
    if budget is not None:
        found["budget_usd"] = None if budget == "none" else _usd(budget)
    if models:
        found["models"] = None if models == ["none"] else models
    if tags:
        found["tags"] = parameters(tags)
    return found


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={_plain(each)}" for name, each in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else value


def _usd(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} must be an amount in USD, or none") from None


def _sent(context: typer.Context, method: str, path: str, body: object, *, json: bool) -> None:
    """Send a request about one key, and show the answer."""
    session: Session = context.obj
    session.json = json
    with session.client() as client:
        response = client.request(method, path, json=body)
    if not response.content:
        report("Done.")
        return
    answer = session.answer(response)
    if answer is None:
        return
    facts((name, _plain(value)) for name, value in answer.items() if value not in (None, {}, []))
    if "key" in answer and method == "POST":
        report("Keep the text of the key now: no later answer has it.")
