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
    SAFETY_SERVICE: Literal["azure"] | None = Field(
        None,
        description="azure: Azure AI Content Safety judges prompts, in place of a service at SAFETY_URL.",
    )
    AZURE_CONTENT_SAFETY_ENDPOINT: Annotated[str, AfterValidator(values.base_url)] | None = Field(
        None, description="URL of the resource: https://NAME.cognitiveservices.azure.com."
    )
    AZURE_CONTENT_SAFETY_KEY: values.Secret | None = Field(None, description="A key of the resource.")
    SAFETY_THRESHOLD: int = Field(
        4, ge=1, le=6, description="The least severity that Azure's service refuses: 2, 4 or 6."
    )
    SAFETY_TIMEOUT: float = Field(
        5, gt=0, le=60, description="Seconds that the service may take for one prompt, up to 60."
    )
    SAFETY_ON_ERROR: Literal["refuse", "allow"] = Field(
        "refuse", description="For a prompt that the service does not judge: refuse or allow."
    )

    @property
    def safety_url(self) -> str | None:
        """The URL of the service that judges prompts."""
        return self.AZURE_CONTENT_SAFETY_ENDPOINT if self.SAFETY_SERVICE else self.SAFETY_URL

    def safety_contradictions(self) -> list[str]:
        """A sentence for each two of these settings of which only one can hold, or of which one needs the other."""
        if self.SAFETY_SERVICE is None:
            return []
        needed = {
            "AZURE_CONTENT_SAFETY_ENDPOINT": self.AZURE_CONTENT_SAFETY_ENDPOINT,
            "AZURE_CONTENT_SAFETY_KEY": self.AZURE_CONTENT_SAFETY_KEY,
        }
        found = [f"SAFETY_SERVICE: azure needs {name}." for name, value in needed.items() if value is None]
        if self.SAFETY_URL is not None:
            found.append("SAFETY_SERVICE: SAFETY_URL is set, too; set one of them.")
        return found
