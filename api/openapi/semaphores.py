"""The routes and schemas of named semaphores in the OpenAPI document."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from api.openapi.operations import (
    ADMIN_ONLY,
    BODY_ERRORS,
    GENERATING_KEYS,
    VIEWERS,
    Operation,
    as_paths,
    header,
    in_path,
    json_of,
    operation,
)
from api.openapi.schemas import COUNT, JSON, TEXT, an_object, ref

_KEY: Final = header(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "A repeated request with the same key gets the same lease, as long as that lives.",
)


def paths() -> JSON:
    return as_paths({
        "/_admin/semaphores": {
            "get": operation("listSemaphores", "List the semaphores and their use", "Semaphores", who=VIEWERS),
            "post": operation(
                "setSemaphore", "Create a semaphore, or change its limit at once", "Semaphore", who=ADMIN_ONLY,
                takes=json_of("SemaphoreLimit"), errors=BODY_ERRORS,
            ),
        },
        "/_admin/semaphores/{semaphore}": {
            "delete": _deletion(
                "removeSemaphore", "Delete a semaphore that no unfinished work and no lease needs", "semaphore",
                errors=("404", "409", "500"),
            )
        },
        "/semaphores/{semaphore}/leases": {
            "post": replace(
                operation(
                    "leasePermit", "Lease a permit for another service, or be refused at once", "Lease",
                    who=GENERATING_KEYS, takes=json_of("LeaseTerms"), errors=(*BODY_ERRORS, "404", "409"),
                    parameters=(in_path("semaphore"), _KEY),
                ),
                answers={"201": {"description": "The permit is leased", "content": json_of("Lease")}},
            )
        },
        "/semaphores/{semaphore}/leases/{lease_id}/renew": {
            "post": operation(
                "renewLease", "Let a lease last for its `ttl` from now", "Lease", who=GENERATING_KEYS,
                errors=("410", "500"), parameters=(in_path("semaphore"), in_path("lease_id")),
            )
        },
        "/semaphores/{semaphore}/leases/{lease_id}": {
            "delete": _deletion(
                "endLease", "End a lease; also succeeds if it has ended", "semaphore", "lease_id",
                who=GENERATING_KEYS, errors=("500",),
            )
        },
    })  # fmt: skip


def schemas() -> JSON:
    semaphore = {"semaphore_id": TEXT, "limit": COUNT, "in_use": COUNT, "leases": COUNT, "waiting": COUNT}
    return {
        "Semaphore": an_object(
            semaphore,
            description="`in_use` counts the permits of generations and the `leases` of other services. It exceeds "
            "`limit` while a lower limit has not taken effect. `waiting` counts generations.",
        ),
        "Semaphores": an_object({"semaphores": {"type": "array", "items": ref("Semaphore")}}),
        "Lease": an_object(
            {
                "lease_id": TEXT,
                "semaphore_id": TEXT,
                "ttl": {"type": "number", "description": "Seconds."},
                "expires_at": {"type": "string", "format": "date-time"},
            }
        ),
    }


def _deletion(
    name: str, summary: str, *path: str, errors: tuple[str, ...], who: Sequence[str] = ADMIN_ONLY
) -> Operation:
    return Operation(
        name=name,
        summary=summary,
        who=who,
        parameters=tuple(in_path(each) for each in path),
        answers={"204": {"description": "Done"}},
        errors=errors,
    )
