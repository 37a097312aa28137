"""The settings of the check of prompts before anything is spent."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class SafetyFields(BaseModel):
    """The settings of the rules."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    SAFETY_FILE: Path | None = Field(
        None,
        description="TOML or JSON file with rules for prompts: words and expressions that block or flag a request.",
    )
