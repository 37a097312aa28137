"""The settings of text models."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from settings import values

MAX_CALLS_AT_ONCE: Final = 1000

GEMINI_LIMITS: Final = (
    '{"*": {"rpm": 300, "tpm": 1000000, "rpd": null}, "account": {"usd_per_10_minutes": 10}}'
)


def _limits(text: str) -> str:
    try:
        found = json.loads(text)
    except ValueError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
        raise ValueError("must be a JSON object of objects, by patterns of models, and `account`")
    return text


class CallFields(BaseModel):
    """The settings of Gemini."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    GEMINI_API_KEY: values.Secret | None = Field(
        None,
        description="The service's Gemini key. It pays for calls to text models with the admin key and named keys.",
    )
    ADMIN_API_KEY: values.Secret | None = Field(
        None, description="Another name of CONCURRENT_DOCKER_ADMIN_API_KEY."
    )
    GEMINI_OPEN: bool = Field(
        False,
        description="1 lets calls without any key use the service's Gemini key: for a network that only you reach.",
    )
    GEMINI_CONCURRENCY_LIMIT: int = Field(
        15,
        ge=1,
        le=MAX_CALLS_AT_ONCE,
        description="Calls of one account to text models that may run at once, 1 to 1000.",
    )
    GEMINI_LIMITS: Annotated[str, AfterValidator(_limits)] = Field(
        GEMINI_LIMITS,
        description="Limits by patterns of models, as JSON: requests and prompt tokens a minute, requests a day. And "
        "USD in ten minutes.",
    )
    GEMINI_CHAT_MODEL: str = Field("gemini-3.5-flash-lite", description="The model of chats that name none.")
    GEMINI_STRUCTURED_MODEL: str = Field(
        "gemini-3.8-flash", description="The model of structured output and stories that name none."
    )
    GEMINI_CHAT_TOKENS: int = Field(
        8192,
        ge=1,
        le=65_536,
        description="Tokens that a chat may think and answer, unless its request has a number.",
    )
    GEMINI_STRUCTURED_TOKENS: int = Field(
        32_768, ge=1, le=65_536, description="The same for structured output and stories."
    )
    GEMINI_BASE_URL: Annotated[str, AfterValidator(values.base_url)] = Field(
        "https://generativelanguage.googleapis.com", description="URL of Gemini's API; may include a path."
    )
    GEMINI_SIMULATE: bool = Field(
        False, description="As REPLICATE_SIMULATE, which includes it: a service simulates both or neither."
    )
    TEXTS_TTL: float = Field(
        604_800,
        ge=0,
        description="Seconds to keep prompts, schemas and answers of text models; then only their facts remain.",
    )

    @property
    def call_limits(self) -> Mapping[str, Any]:
        """The limits of calls by the names that `parsing.limits` has for them."""
        return {"calls.concurrency_limit": self.GEMINI_CONCURRENCY_LIMIT, "calls.limits": self.gemini_limits}

    @property
    def gemini_limits(self) -> Mapping[str, Mapping[str, Any]]:
        found: Mapping[str, Mapping[str, Any]] = json.loads(self.GEMINI_LIMITS)
        return found
