"""The refusal of a prompt or an image for its content."""

from collections.abc import Iterable
from typing import Any

from errors import InvalidFields, Problem, ServiceError


class ContentRefused(ServiceError):
    """A model refused the content, or this service did before it was sent. Only the latter has a `category`: it costs
    no money, and no other model is tried. `problems` are the fields that the rules refuse."""

    status, code = 422, "content_refused"
    title = "The prompt or the image was refused"
    falls_back = True

    def __init__(
        self, detail: str = "", *, category: str | None = None, problems: Iterable[Problem] = ()
    ) -> None:
        super().__init__(detail)
        self.category = category
        self.problems = tuple(problems)
        if category is not None:
            self.falls_back = False

    def about(self, problems: Iterable[Problem]) -> "ContentRefused":
        """The same refusal with other names of the fields."""
        found = tuple(problems)
        detail = InvalidFields(found).detail if found else self.detail
        return ContentRefused(detail, category=self.category, problems=found)

    def as_item(self) -> dict[str, Any]:
        before = {} if self.category is None else {"stage": "before", "category": self.category}
        return super().as_item() | before
