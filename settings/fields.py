"""The settings as fields: one for each variable, with its unit in the name or the description.

`description` is the sentence that `.env.example` and the README print; a test compares the three.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from settings import values

MAX_CONCURRENT_LIMIT = 1000
MAX_REQUESTS_PER_MINUTE = 60_000


class Fields(BaseModel):
    """The settings of the service, and of Replicate."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    REPLICATE_API_TOKEN: values.Secret | None = Field(
        None,
        description="The service's Replicate token (r8_…). It pays for requests with the admin key and named keys.",
    )
    CONCURRENT_DOCKER_ADMIN_API_KEY: values.Secret | None = Field(
        None, description="The admin key. If empty, the service accepts no admin key; there is no default."
    )
    AZURE_KEY_VAULT_URL: Annotated[str, AfterValidator(values.vault_url)] | None = Field(
        None,
        description="https://… of an Azure Key Vault with secrets that have no variable and no file, by names as "
        "replicate-api-token; needs requirements-azure.txt.",
    )
    SECRET_GRACE_SECONDS: float = Field(
        300,
        ge=0,
        le=86_400,
        description="Seconds for which a replaced admin key is still accepted, and a replaced WEBHOOK_SECRET still "
        "signs.",
    )
    ALLOW_USER_TOKENS: bool = Field(
        True, description="1 accepts callers with their own Replicate tokens; 0 keys only."
    )
    REPLICATE_CONCURRENT_LIMIT: int = Field(
        10, ge=1, le=MAX_CONCURRENT_LIMIT, description="Predictions that may run at once, 1 to 1000."
    )
    REPLICATE_REQUESTS_PER_MINUTE: int = Field(
        600,
        ge=1,
        le=MAX_REQUESTS_PER_MINUTE,
        description="Predictions that may be created in any 60 seconds, 1 to 60000.",
    )
    REPLICATE_OTHER_REQUESTS_PER_MINUTE: int = Field(
        3000,
        ge=1,
        le=MAX_REQUESTS_PER_MINUTE,
        description="All other requests to Replicate in any 60 seconds: polls, cancellations, uploads. 1 to 60000.",
    )
    INTERACTIVE_RESERVE: float = Field(
        0.5,
        ge=0,
        le=0.5,
        description="The largest share of the window reserved for single requests, 0 to 0.5. Batches use the rest.",
    )
    GENERATION_TIMEOUT: float = Field(
        600,
        ge=1,
        le=1800,
        description="Seconds a prediction may run, 1 to 1800. A request can set its own timeout.",
    )
    GENERATION_START_TIMEOUT: float = Field(
        600,
        ge=1,
        le=1800,
        description="Seconds a prediction may wait for its start, such as for a boot, 1 to 1800. A request can set its "
        "own start_timeout.",
    )
    MAX_QUEUED: int = Field(
        40_000,
        ge=1,
        description="Generations that may wait, at most three quarters of them of one caller; more get 429.",
    )
    MAX_WAITING_CALLERS: int = Field(
        1000,
        ge=1,
        le=4000,
        description="HTTP requests that may wait for results at once, at most half of one caller; more get 429.",
    )
    MAX_BODY_BYTES: int = Field(
        16_777_216, ge=1024, description="Maximum bytes of a JSON body, and of the text fields of a form."
    )
    MAX_UPLOAD_BYTES: int = Field(
        335_544_320,
        ge=1024,
        description="Maximum bytes of a multipart/form-data body. Each image may have at most 100 MB.",
    )
    DRAIN_SECONDS: float = Field(
        60,
        ge=0,
        le=1800,
        description="Seconds to wait for running predictions after SIGTERM. The service may need 60 more to stop.",
    )
    IDLE_EXIT_SECONDS: float | None = Field(
        None,
        ge=1,
        description="Seconds without requests and unfinished work after which the service ends. If empty, it does not.",
    )
    PIN_TO_CORE: bool = Field(
        False,
        description="Run all threads on one core that no other pinned process has. A request takes less CPU, and the "
        "service uses at most that core.",
    )
    DATA_DIR: Path = Field(
        Path("data"),
        description="Directory of the ledger, outputs and other persistent data; created if missing.",
    )
    DATABASE_URL: Annotated[SecretStr, AfterValidator(values.database_url)] | None = Field(
        None,
        description="URL of the ledger: sqlite:///path or postgresql://… If empty, ledger.db in DATA_DIR.",
    )
    PROCESS_TTL: float = Field(
        5,
        ge=1,
        le=60,
        description="Seconds of silence after which a process on PostgreSQL counts as dead, 1 to 60.",
    )
    LEDGER_KEEP_DAYS: int | None = Field(
        None,
        ge=2,
        description="Days to keep ended generations in the ledger, 2 or more. If empty, they are never deleted.",
    )
    RESUME_TTL: float = Field(
        86_400,
        ge=0,
        description="Seconds that a user's interrupted generations wait for the user's next request before they fail.",
    )
    TRAININGS_AT_ONCE: int = Field(
        2,
        ge=1,
        le=100,
        description="Trainings that run at once, of all processes on the ledger. They take no slot of other work.",
    )
    FILES_DIR: Path | None = Field(None, description="Directory for outputs. If empty, `files` in DATA_DIR.")
    FILES_URL: Annotated[str, AfterValidator(values.files_url)] | None = Field(
        None,
        description="s3://bucket/prefix stores outputs in S3 instead; needs requirements-s3.txt and AWS_* variables.",
    )
    FILES_SHARED: bool = Field(
        False,
        description="1 says that FILES_DIR is one directory for all instances on the ledger in PostgreSQL.",
    )
    FILES_TTL: float = Field(
        604_800, ge=0, description="Seconds to keep outputs, by default seven days; 0 stores none."
    )
    FILES_MAX_BYTES: int = Field(
        10_737_418_240,
        ge=1,
        description="Maximum bytes of all stored outputs; beyond it, the oldest are deleted.",
    )
    WEIGHTS_TTL: float | None = Field(
        None,
        ge=1,
        description="Seconds to keep the weights that trainings made. If empty, until they are deleted by a request.",
    )
    PUBLIC_URL: Annotated[str, AfterValidator(values.base_url)] | None = Field(
        None,
        description="Public URL of this service, for links and, if it is https, for Replicate's webhooks.",
    )
    OPENAI_RESPONSE_FORMAT: Literal["url", "b64_json"] = Field(
        "url", description="What /v1/images answers to calls that name no response_format: url or b64_json."
    )
    WEBHOOK_SECRET: Annotated[SecretStr, AfterValidator(values.webhook_secret)] | None = Field(
        None,
        description="Signs callers' webhooks: whsec_ and base64. If empty, only those of named keys are signed.",
    )
    WEBHOOK_HOSTS: Annotated[str, AfterValidator(values.webhook_hosts)] | None = Field(
        None,
        description="Private hosts allowed for callers' webhooks, by http too: hooks.internal, .corp:8080, 10.0.0.0/8.",
    )
    BUDGET_USD_PER_DAY: float | None = Field(
        None,
        ge=0,
        description="USD that the service's token may spend per day (UTC); more gets 402. If empty, no limit.",
    )
    PRICES_FILE: Path | None = Field(
        None,
        description="TOML or JSON file with prices of models and deployments that have none here, or other ones.",
    )
    UNPRICED_USD_PER_SECOND: float = Field(
        0.001525,
        gt=0,
        description="The most USD that a second of a model without a price may cost. The default is that of an H100.",
    )
    MODELS_ALLOWED: str = Field(
        "*",
        description="Models that the service's token runs: * for all, or names, owner/* and registry, by commas.",
    )
    CORS_ORIGINS: Annotated[str, AfterValidator(values.origins)] = Field(
        "",
        description="Origins of web pages that may use all routes, but with no admin key, by commas: https://host. If "
        "empty, pages may only read files, models and the OpenAPI document.",
    )
    LORA_MODEL_ID: str | None = Field(
        None,
        description='The model that model_name "lora" means: owner/name, or owner/name:version.',
    )
    TRIGGER_WORDS_FILE: Path | None = Field(
        None,
        description="TOML or JSON file with the trigger words of LoRAs by model; a prompt without its word warns.",
    )
    FALLBACKS_FILE: Path | None = Field(
        None,
        description="TOML or JSON file with the fallbacks of each model, for requests that allow fallbacks.",
    )
    REPLICATE_BASE_URL: Annotated[str, AfterValidator(values.base_url)] = Field(
        "https://api.replicate.com", description="URL of Replicate's API; may include a path."
    )
    REPLICATE_SIMULATE: bool = Field(
        False,
        description="1 uses a simulator: the one at REPLICATE_BASE_URL, or else one that the service starts.",
    )
    HTTPS_PROXY: Annotated[SecretStr, AfterValidator(values.proxy_url)] | None = Field(
        None,
        description="Proxy for Replicate and its outputs: http://user:password@host:3128. Webhooks do not use it.",
    )
    NO_PROXY: str | None = Field(
        None,
        description="Hosts to reach without HTTPS_PROXY: example.com and its subdomains, host:port, 10.0.0.0/8, *.",
    )
    HOST: str = Field("127.0.0.1", description="Address to listen on. In the container: 0.0.0.0.")
    PORT: int = Field(5000, ge=1, le=65535, description="Port to listen on.")
    LOG_LEVEL: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Minimum severity of logged events: debug, info, warning or error."
    )
    LOG_FORMAT: Literal["auto", "json", "console"] = Field(
        "auto", description="json or console. auto is console on a terminal, and JSON elsewhere."
    )
