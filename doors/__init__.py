"""The doors: APIs of other services, translated from and into the one of this service.

Each door is pure translation, without Flask: requests into bodies of `POST /generate` and `/generate-batch`, and
results and errors into the door's own shape. `api/` has their routes.
"""

from typing import Final

OPENAI_ROOT: Final = "/v1"
REPLICATE_ROOT: Final = "/replicate/v1"
"""The paths below which the routes of each door are."""

SAFETY_FACTS: Final = ("stage", "category")
"""The fields of a refusal from before the request was sent."""

BUDGET_FACTS: Final = ("budget", "period", "begins_anew")
"""The facts of a budget that is used up (`BudgetExceeded`), which each door shows beside its own fields."""
