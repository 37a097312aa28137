"""The routes and schemas of named semaphores in the OpenAPI document."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from api.openapi.operations import ADMIN_ONLY, VIEWERS, Operation, header, json_of, operation
from api.openapi.schemas import JSON, TEXT, an_object, ref

_COUNT: Final[JSON] = {"type": "integer", "minimum": 0}
_REFUSED: Final = ("401", "403")
_BODY: Final = ("400", *_REFUSED, "413", "415", "429", "500")
_LEASING: Final = ("admin", "caller")
_KEY: Final = header(
    "Idempotency-Key",
    {"type": "string", "pattern": "^[!-~]{1,255}$"},
    "A repeated request with the same key gets the same lease, as long as that lives.",
)


def paths() -> JSON:
    routes = {
        "/_admin/semaphores": {
            "get": operation(
                "listSemaphores", "List the semaphores and their use", "Semaphores", who=VIEWERS, errors=_REFUSED
            ),
            "post": operation(
                "setSemaphore", "Create a semaphore, or change its limit at once", "Semaphore", who=ADMIN_ONLY,
                takes=json_of("SemaphoreLimit"), errors=_BODY,
            ),
        },
        "/_admin/semaphores/{semaphore}": {
            "delete": _deletion(
                "removeSemaphore", "Delete a semaphore that no unfinished work and no lease needs", "semaphore",
                errors=(*_REFUSED, "404", "409", "500"),
            )
        },
        "/semaphores/{semaphore}/leases": {
            "post": replace(
                operation(
                    "leasePermit", "Lease a permit for another service, or be refused at once", "Lease",
                    who=_LEASING, takes=json_of("LeaseTerms"), errors=(*_BODY, "404", "409"),
                    parameters=(_path("semaphore"), _KEY),
                ),
                answers={"201": {"description": "The permit is leased", "content": json_of("Lease")}},
            )
        },
        "/semaphores/{semaphore}/leases/{lease_id}/renew": {
            "post": operation(
                "renewLease", "Let a lease last for its `ttl` from now", "Lease", who=_LEASING,
                errors=(*_REFUSED, "410", "500"), parameters=(_path("semaphore"), _path("lease_id")),
            )
        },
        "/semaphores/{semaphore}/leases/{lease_id}": {
            "delete": _deletion(
                "endLease", "End a lease; also succeeds if it has ended", "semaphore", "lease_id",
                who=_LEASING, errors=(*_REFUSED, "500"),
            )
        },
    }  # fmt: skip
    return {path: {each: made.as_json() for each, made in found.items()} for path, found in routes.items()}


def schemas() -> JSON:
    semaphore = {"semaphore_id": TEXT, "limit": _COUNT, "in_use": _COUNT, "leases": _COUNT, "waiting": _COUNT}
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
        parameters=tuple(_path(each) for each in path),
        answers={"204": {"description": "Done"}},
        errors=errors,
    )


def _path(name: str) -> JSON:
    return {"name": name, "in": "path", "required": True, "schema": TEXT}
