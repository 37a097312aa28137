"""Write the parts of the documents that repeat the code: `make generated`.

Settings, models, fallbacks and errors are declared once. `.env.example` and the tables between markers in Markdown
follow from the declarations; a test compares them.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from catalog.model import Fallback, Model
from errors.listing import every_error
from models import MODELS
from settings import Settings

ROOT = Path(__file__).parent.parent

_TABLE = re.compile(r"(<!-- (\w+), by make generated -->\n).*?(<!-- end -->\n)", re.DOTALL)

_HEADINGS = {
    "REPLICATE_API_TOKEN": "Keys and tokens",
    "REPLICATE_CONCURRENT_LIMIT": "Limits",
    "GENERATION_TIMEOUT": "Timeouts and sizes",
    "DATA_DIR": "Persistent data",
    "FILES_DIR": "Outputs",
    "PUBLIC_URL": "Links, webhooks, budget",
    "PRICES_FILE": "Prices",
    "FALLBACKS_FILE": "Fallback",
    "REPLICATE_BASE_URL": "Replicate",
    "GEMINI_API_KEY": "Gemini",
    "SAFETY_FILE": "Checks of prompts",
    "HOST": "Listening (commented out, since the container sets HOST to 0.0.0.0)",
}
"""The sections of `.env.example`, by their first setting."""

_COMMENTED_OUT = {"HOST", "PORT"}


def documents() -> dict[Path, str]:
    """The expected text of each document, by its path."""
    models = [_model(model) for model in MODELS]
    fallbacks = [
        (f"`{model.short_name}`", ", ".join(map(_rule, model.fallbacks)))
        for model in MODELS
        if model.fallbacks
    ]
    settings = [
        (f"`{name}`", f"`{_default(field)}`" if _default(field) else "", field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    errors = [
        (f"`{error.code}`", str(error.status), error.title, "yes" if error.falls_back else "")
        for error in sorted(every_error(), key=lambda error: error.status)
    ]
    tables = {
        "models": _table(
            "model | aliases | makes | USD | tier, credits | parameters beside `prompt`", models
        ),
        "fallbacks": _table("when this fails | this is tried", fallbacks),
        "settings": _table("variable | default | ", settings),
        "secrets": ", ".join(f"`{name}_FILE`" for name in Settings.secret_names()) + "\n",
        "errors": _table("code | status | meaning | a fallback follows", errors),
    }
    paths = [ROOT / "docs" / f"{name}.md" for name in ("models", "settings", "errors")]
    filled = {path: _TABLE.sub(lambda at: at[1] + tables[at[2]] + at[3], path.read_text()) for path in paths}
    return {**filled, ROOT / ".env.example": _env_example()}


def _model(model: Model) -> Sequence[str]:
    return (
        f"`{model.name}`{', retired' if model.retired else ''}",
        ", ".join(f"`{alias}`" for alias in model.aliases),
        f"{model.kind}, `{model.extension}`" if model.extension else str(model.kind),
        str(model.price) if model.price else "",
        f"{model.tier}, {model.credits}",
        ", ".join(f"`{name}`" for name in model.inputs if name != "prompt"),
    )


def _rule(rule: Fallback) -> str:
    to = next((model.short_name for model in MODELS if model.name == rule.to), rule.to)
    when = {None: "", True: "with a reference image ", False: "without one "}[rule.references]
    return f"{when}`{to}`" + (f" after {' or '.join(f'`{code}`' for code in rule.on)}" if rule.on else "")


def _env_example() -> str:
    lines = [
        "# Copy to .env and set what you need. Each line has the default value; an empty value means the default.",
        "# Docker reads this file literally: write no quotes, and no comments after a value.",
        "# Instead of a secret, you may set its name with _FILE (REPLICATE_API_TOKEN_FILE=…): the path of a file that",
        "# holds it, and that may be replaced at any time. docs/settings.md lists these names.",
    ]
    for name, field in Settings.model_fields.items():
        if name in _HEADINGS:
            lines += ["", f"# ── {_HEADINGS[name]}"]
        assigned = f"{'# ' if name in _COMMENTED_OUT else ''}{name}={_default(field)}"
        lines += ["", f"# {field.description}", assigned]
    return "\n".join(lines) + "\n"


def _default(field: Any) -> str:
    if field.default is None or field.default is False:
        return ""
    return f"{field.default:g}" if isinstance(field.default, float) else str(field.default)


def _table(head: str, rows: Sequence[Sequence[str]]) -> str:
    lines = (head.split(" | "), ["---"] * len(rows[0]), *rows)
    return "".join(f"|{'|'.join(f' {cell} ' if cell else ' ' for cell in line)}|\n" for line in lines)


def main() -> int:
    """Write each document that differs, and print its path. Returns the exit status."""
    for path, text in documents().items():
        if path.read_text() != text:
            path.write_text(text)
            sys.stdout.write(f"{path.relative_to(ROOT)} is written.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
