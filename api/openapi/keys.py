"""The routes and schemas of named keys, and of the audit trail, in the OpenAPI document."""

from dataclasses import replace
from typing import Any, Final, get_args

from api.openapi.operations import (
    ADMIN_ONLY,
    ALL_KEYS,
    BODY_ERRORS,
    CURSOR,
    LIMIT,
    VIEWERS,
    Operation,
    as_paths,
    header,
    in_path,
    json_of,
    operation,
    query,
)
from api.openapi.schemas import COUNT, JSON, MOMENT, OPTIONAL_MOMENT, TEXT, an_object, page_of, ref
from ledger.access_records import Role

_ID: Final = in_path("key_id", "The id of the key.")

_KEY: Final = header(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "A repeated request with the same key and body gets the same text, as long as the named key has it.",
)


def paths() -> JSON:
    return as_paths({
        "/keys": {
            "post": replace(
                operation(
                    "createKey", "Make a named key; its text is in this answer only", "KeyWithText",
                    who=ADMIN_ONLY, parameters=(_KEY,), takes=json_of("NewKey"), errors=(*BODY_ERRORS, "409"),
                ),
                answers={"201": {"description": "The key is made", "content": json_of("KeyWithText")}},
            ),
            "get": operation(
                "listKeys", "List the keys that are not deleted, the newest first", "Keys",
                who=VIEWERS, parameters=(LIMIT, CURSOR), errors=("400", "500"),
            ),
        },
        "/keys/self": {
            "get": operation(
                "ownKey", "Get the key of this request, with its limits and its use", "OwnKey", who=ALL_KEYS,
                errors=("500",),
            )
        },
        **_of_one(), "/audit": {"get": _acts()},
    })  # fmt: skip


def _of_one() -> dict[str, dict[str, Operation]]:
    one: dict[str, Any] = {"who": ADMIN_ONLY, "parameters": (_ID,), "errors": ("404", "500")}
    return {
        "/keys/{key_id}": {
            "get": operation("getKey", "Get a key, which may be deleted", "Key", **one | {"who": VIEWERS}),
            "patch": operation(
                "changeKey", "Change the fields that the body names; null ends a limit", "Key", who=ADMIN_ONLY,
                parameters=(_ID,), takes=json_of("KeyChanges"), errors=(*BODY_ERRORS, "404"),
            ),
            "delete": Operation(
                name="deleteKey", summary="Delete a key; its waiting work is cancelled",
                answers={"204": {"description": "Deleted"}}, **one,
            ),
        },
        "/keys/{key_id}/rotate": {
            "post": operation(
                "rotateKey", "Give a key another text; its identity stays", "KeyWithText", who=ADMIN_ONLY,
                parameters=(_ID, _KEY), takes=json_of("Rotation"), needs_body=False,
                errors=(*BODY_ERRORS, "404", "409"),
            )
        },
    }  # fmt: skip


def _acts() -> Operation:
    return operation(
        "listActs",
        "List what administrators did, the latest first",
        "Acts",
        who=VIEWERS,
        parameters=(
            query("actor", TEXT, "The id of the key that acted, or `admin`."),
            query("action", TEXT, "Such as `keys.create`, or `keys` for all of them."),
            query("since", TEXT, "Only acts at or after this time."),
            LIMIT,
            CURSOR,
        ),
        errors=("400", "500"),
    )


def _spending() -> JSON:
    usd: JSON = {"type": "number"}
    return an_object(
        {
            "period": {"enum": ["day", "week", "month"]},
            "begins_at": MOMENT,
            "begins_anew": MOMENT,
            "used_usd": usd,
            "reserved_usd": usd,
            "left_usd": {"type": ["number", "null"]},
        },
        description="What the key has spent in its present period, and what unfinished work may cost. "
        "Without a budget, the period is the month and `left_usd` is null.",
    )


def schemas() -> JSON:
    limit: JSON = {"type": ["integer", "null"]}
    moment = OPTIONAL_MOMENT
    names = {"id": TEXT, "name": TEXT, "role": {"enum": [*get_args(Role)]}}
    limits = {
        "prefix": {**TEXT, "description": "How the text of the key begins."},
        "max_concurrent": limit,
        "requests_per_minute": limit,
        "max_queued": limit,
        "budget_usd": {"type": ["number", "null"]},
        "budget_period": {"enum": ["day", "week", "month", None]},
        "models": {"type": ["array", "null"], "items": TEXT, "description": "null means all models."},
        "safety": {"enum": ["on", "off"], "description": "Whether its prompts are checked."},
        "tags": {"type": "object", "additionalProperties": TEXT},
        "created_at": MOMENT,
        "expires_at": moment,
        "deleted_at": moment,
        "previous_valid_until": moment
        | {"description": "Until when the text before the last rotation is accepted."},
    }
    key = {**names, **limits}
    return {
        "Key": an_object(key),
        "KeyWithText": an_object(key | {"key": {**TEXT, "description": "The text of the key."}}),
        "Keys": page_of("keys", ref("Key")),
        "OwnKey": an_object(
            {
                **names, "role": {"enum": [*get_args(Role), "user"]}, **limits, "budget": _spending(),
                "in_flight": COUNT, "waiting": COUNT, "created_last_minute": COUNT,
                "webhook_secret": {**TEXT, "description": "Signs webhooks, for the roles admin and caller."},
            },
            required=["id", "name", "role"],
            description="The limits are those of named keys. `in_flight` and `waiting` count the generations of the "
            "key, `created_last_minute` its creations that were answered within 60 seconds or are not answered yet.",
        ),
        "Acts": page_of(
            "acts",
            an_object(
                {
                    "at": MOMENT, "id": TEXT, "actor": TEXT, "actor_name": TEXT, "action": TEXT, "target": TEXT,
                    "details": {"type": "object"}, "request_id": TEXT,
                }
            ),
        ),
    }  # fmt: skip
