"""The routes of lists and of usage in the OpenAPI document."""

from typing import Final

from api.openapi.operations import CURSOR, LIMIT, READERS, Operation, as_paths, operation, query
from api.openapi.schemas import JSON, TEXT
from catalog.model import KINDS
from contract.states import ENDED, UNFINISHED

_MOMENT: Final = "a date, a date and time (UTC unless it has an offset), or a Unix time."

OWNER: Final = query(
    "key",
    TEXT,
    "Whose work, for admins and viewers: the id or name of a key, `admin` for the admin key, or `*` for all. Without "
    "it, the caller's own.",
)


def paths() -> JSON:
    routes = {"/generations": _list(), "/batches": _list_batches(), "/usage": _usage()}
    return as_paths({path: {"get": each} for path, each in routes.items()})


def _list() -> Operation:
    return operation(
        "listGenerations", "List the caller's generations, the latest first", "Generations",
        who=READERS, errors=("400", "500"),
        parameters=(
            query("state", {"enum": [*UNFINISHED, *ENDED]}),
            query("model", TEXT, "Full name or alias."),
            query("since", TEXT, f"Only generations accepted at or after this time: {_MOMENT}"),
            query("kind", {"enum": list(KINDS)}, "Only what makes this."),
            query("batch", TEXT, "Only the generations of the batch with this id."),
            query("prompt", TEXT, "Only with prompts that contain this text, in any case."),
            query("metadata.{name}", TEXT, "Only with this text in their `metadata`; several must all be."),
            OWNER,
            LIMIT,
            CURSOR,
        ),
    )  # fmt: skip


def _list_batches() -> Operation:
    return operation(
        "listBatches", "List the caller's batches without results, the latest first", "Batches",
        who=READERS, errors=("400", "500"), parameters=(OWNER, LIMIT, CURSOR),
    )  # fmt: skip


def _usage() -> Operation:
    return operation(
        "usage", "Get the number and cost of generations: all for the admin, their own for users", "Usage",
        who=READERS, errors=("400", "500"),
        parameters=(
            query("since", TEXT, f"Only generations ended at or after this time: {_MOMENT}"),
            query("until", TEXT, "Only generations ended before this time. Deleted ones: by the day."),
            query(
                "group_by",
                TEXT,
                "One or two of `model`, `caller`, `day`, `key`, `tag:<name>` and `metadata:<name>`, separated by a "
                "comma.",
            ),
        ),
    )  # fmt: skip
