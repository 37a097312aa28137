"""Files, models, versions and accounts as Replicate's API shows them.

Facts: Replicate's OpenAPI document, and the fields that the official client at 1.0.7 requires.
"""

import re
from typing import Any, Final

from catalog.model import Model
from catalog.targets import Target
from doors import REPLICATE_ROOT
from doors.replicate.predictions import HIDDEN
from doors.replicate.states import timestamp
from files.caller_files import CallerFile

Body = dict[str, Any]

_FILE: Final = re.compile(
    rf"https?://[^/?#\s]+(?:/[^?#\s]*)?{REPLICATE_ROOT}/files/([0-9a-f]{{48}})", re.IGNORECASE
)

_COG_VERSION: Final = "unknown"
"""Not published with the schema. The official client reads any text that is no version as a recent one."""


def file(found: CallerFile, address: str) -> Body:
    """An uploaded file. Its address is an input of predictions for its caller alone."""
    return {
        "id": found.id,
        "name": found.name,
        "content_type": found.content_type,
        "size": found.size,
        "etag": found.md5,
        "checksums": {"sha256": found.sha256, "md5": found.md5},
        "metadata": dict(found.metadata),
        "created_at": timestamp(found.created_at),
        "expires_at": timestamp(found.expires_at),
        "urls": {"get": f"{address}{REPLICATE_ROOT}/files/{found.id}"},
    }


def file_id(url: str) -> str | None:
    """The id of the file at this address, None if it is no address of a file of this door, on any host."""
    found = _FILE.fullmatch(url.strip()) if "/files/" in url else None
    return found[1].lower() if found else None


def model(found: Model) -> Body:
    """A model with its latest version."""
    name, visibility = Target.parse(found.name).name, "private" if found.bills_setup else "public"
    return {
        **empty_model(name, visibility),
        "description": found.description or None,
        "latest_version": version(found, found.version or HIDDEN),
    }


def empty_model(name: str, visibility: str) -> Body:
    """A model that was just created, and has no version yet."""
    owner, _, short = name.partition("/")
    return {
        "url": f"https://replicate.com/{name}",
        "owner": owner,
        "name": short,
        "description": None,
        "visibility": visibility,
        "github_url": None,
        "paper_url": None,
        "license_url": None,
        "run_count": 0,
        "cover_image_url": None,
        "default_example": None,
        "latest_version": None,
    }


def version(found: Model, version_id: str) -> Body:
    """A version of a model. When it was created is not known here."""
    return {
        "id": version_id,
        "created_at": timestamp(0.0),
        "cog_version": _COG_VERSION,
        "openapi_schema": dict(found.document),
    }


def account(name: str, *, is_user: bool) -> Body:
    """The account of a caller: a named key is one of an organization."""
    return {
        "type": "user" if is_user else "organization",
        "username": name,
        "name": name,
        "github_url": None,
    }
