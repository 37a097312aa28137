"""Trainings over the HTTP API: their images, their requests, and the wait for their end."""

import zipfile
from collections.abc import Mapping
from io import BytesIO
from typing import Any

from flask.testing import FlaskClient
from werkzeug.datastructures import FileStorage
from werkzeug.test import TestResponse, encode_multipart

from harness.service_process import until
from tests.support.api_client import ENDED
from tests.support.callers import ADMIN
from tests.support.zips import image

OSTRIS = "ostris/flux-dev-lora-trainer"

NAMED = {"trainer": OSTRIS, "destination": "dog", "create_destination": True, "trigger_word": "TOK"}
"""The fields of a training that makes its destination."""


def zip_of(names: Mapping[str, bytes] | None = None, *, images: int = 6) -> bytes:
    """A zip with these files, or with so many images and a caption for each."""
    if names is None:
        names = {f"dog{number}.jpg": image() for number in range(images)}
        names |= {name.replace(".jpg", ".txt"): b"a dog" for name in names}
    file = BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in names.items():
            archive.writestr(
                zipfile.ZipInfo(name), content
            )  # with a fixed date, so that equal zips have equal bytes
    return file.getvalue()


def form(*files: tuple[str, bytes], **fields: Any) -> dict[str, Any]:
    """The fields of a form with these files, by default one zip."""
    parts = files or (("dogs.zip", zip_of()),)
    texts = {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in fields.items()
    }
    return {**texts, "images": [FileStorage(BytesIO(content), name) for name, content in parts]}


def train(
    client: FlaskClient,
    *files: tuple[str, bytes],
    by: Mapping[str, str] = ADMIN,
    headers: Mapping[str, str] | None = None,
    **fields: Any,
) -> TestResponse:
    """The response to a training with these files and fields, beside those of `NAMED`."""
    sent = {name: value for name, value in {**NAMED, **fields}.items() if value is not None}
    boundary, body = encode_multipart(form(*files, **sent))  # the client itself leaves a temporary file open
    content_type = f"multipart/form-data; boundary={boundary}"
    return client.post("/trainings", data=body, content_type=content_type, headers={**by, **(headers or {})})


def training(client: FlaskClient, target: str, *, by: Mapping[str, str] = ADMIN) -> dict[str, Any]:
    """The body of a training."""
    answer = client.get(f"/trainings/{target}", headers=dict(by))
    assert 200 == answer.status_code, answer.text
    body: dict[str, Any] = answer.get_json()
    return body


def trained(client: FlaskClient, target: str, *, by: Mapping[str, str] = ADMIN) -> dict[str, Any]:
    """Wait until a training has ended, and return its body."""
    until(lambda: training(client, target, by=by)["status"] in ENDED)
    return training(client, target, by=by)
