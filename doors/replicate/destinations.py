"""Requests that create models: the destinations of trainings.

Of Replicate's fields, those of the model's page are not passed on, and so are refused: `description`, `github_url`,
`license_url`, `paper_url` and `cover_image_url`.

Facts: Replicate's OpenAPI document (`models.create`), and the source of the official client at 1.0.7.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

from catalog.targets import is_model_name
from errors import Problem
from parsing.trainings import NewDestination
from parsing.validation import read_fields, refuse


class NewModel(BaseModel):
    """The fields of a new model. Replicate requires all of them."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    owner: str
    name: str
    visibility: str
    hardware: str


def read_destination(body: Any) -> tuple[str, NewDestination]:
    """The name `owner/name` of a new model, and how to make it. Raises InvalidRequest with all problems."""
    problems: list[Problem] = []
    fields = read_fields(NewModel, body, problems)
    if fields is None:
        refuse(problems)
    how = {"visibility": fields.visibility, "hardware": fields.hardware}
    new = read_fields(NewDestination, how, problems)
    name = f"{fields.owner}/{fields.name}"
    if not is_model_name(name):
        problems.append(Problem("name", "must be, with its owner, the name of a model", fields.name))
    if problems or new is None:
        refuse(problems)
    return name, new
