"""The settings of the checks of prompts before anything is spent."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from settings import values


class SafetyFields(BaseModel):
    """The settings of the rules, and of the service that judges prompts."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    SAFETY_FILE: Path | None = Field(
        None,
        description="TOML or JSON file with rules for prompts: words and expressions that block or flag a request.",
    )
    SAFETY_URL: Annotated[str, AfterValidator(values.service_url)] | None = Field(
        None, description="URL of a service of your own that judges each prompt before it is sent."
    )
    SAFETY_TIMEOUT: float = Field(
        5, gt=0, le=60, description="Seconds that the service may take for one prompt, up to 60."
    )
    SAFETY_ON_ERROR: Literal["refuse", "allow"] = Field(
        "refuse", description="What becomes of a prompt that the service does not judge: refuse or allow."
    )

    @property
    def safety_url(self) -> str | None:
        """The URL of the service that judges prompts."""
        return self.SAFETY_URL
