"""Reads variables of an environment: the value of a setting, and names that are probably meant for settings."""

from collections.abc import Collection, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

AWS = (
    "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL", "AWS_ALLOW_HTTP",
)  # fmt: skip
"""Variables for the S3 client. obstore reads them from the environment, but not from `.env`."""

_OTHER_PROGRAMS = (
    "AWS_", "COMPOSE_", "DOCKER_", "GUNICORN_", "WEB_CONCURRENCY", "PYTHON", "PIP_", "UV_", "HTTP_PROXY", "HTTPS_PROXY",
    "ALL_PROXY", "NO_PROXY", "SSL_CERT_", "TZ", "LANG", "LC_", "PATH", "HOME", "OTEL_", "FLASK_", "GIT", "SSH_",
    "NODE_", "NPM_", "OPENAI_", "GOOGLE_", "AZURE_", "HF_", "SENTRY_", "POSTGRES_", "REDIS_",
)  # fmt: skip
"""Prefixes of other programs' variables, in upper or lower case."""

_IN_EITHER_CASE = {"HTTPS_PROXY", "NO_PROXY"}
"""Settings that other programs read in lower case, too. The name in upper case counts if both are set."""


def value(environ: Mapping[str, str], name: str) -> str:
    """The value of a setting, "" if it has none."""
    found = environ.get(name, "").strip()
    return found if found or name not in _IN_EITHER_CASE else environ.get(name.lower(), "").strip()


def unknown(
    from_file: Mapping[str, str], environ: Mapping[str, str], settings: Collection[str]
) -> Iterator[tuple[str, str | None]]:
    """The variables that were probably meant for this service but are not settings.

    All of a `.env` but other programs' are. The environment is shared with everything else, so only names like
    a setting's are, in upper or lower case: nearly the same, or beginning with `REPLICATE_` or `CONCURRENT_DOCKER_`.
    """
    for name in sorted((from_file.keys() | environ.keys()) - set(settings)):
        upper = name.upper()
        if upper.startswith(_OTHER_PROGRAMS):
            continue
        is_ours = upper.startswith(("REPLICATE_", "CONCURRENT_DOCKER_"))
        near = get_close_matches(upper, settings, n=1, cutoff=0.6 if is_ours else 0.85)
        if is_ours or near or name in from_file:
            yield name, near[0] if near else None


def sentence(error: Any) -> str:
    """A sentence for one of pydantic's errors."""
    return f"{error['loc'][0]}: {reason(error)}."


def reason(error: Any) -> str:
    """The rule that a value breaks, for one of pydantic's errors."""
    words = _WORDS.get(error["type"])
    return words or error["msg"].removeprefix("Value error, ").replace("Input should", "must")


_WORDS = {
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be 1 or 0",
}
"""Plainer messages than pydantic's."""
