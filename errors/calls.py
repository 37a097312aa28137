"""The errors of calls to text models. The tree of all errors is in the package's docstring."""

from typing import Any

from errors import AccountError, InvalidFields, ServiceError


class PromptTooLarge(InvalidFields):
    """The problem names the tokens of the prompt and the limit."""

    status, code = 400, "prompt_too_large"
    title = "The prompt is too large"
    falls_back = True


class SchemaRefused(InvalidFields):
    status, code = 400, "schema_refused"
    title = "The model does not take this JSON Schema"
    falls_back = True


class OutputTruncated(ServiceError):
    code = "output_truncated"
    title = "The output ended at its token limit"
    falls_back = True
    may_be_paid = True


class OutputInvalid(InvalidFields):
    """Each problem has a path in the output, and the rule of the schema that it breaks."""

    code = "output_invalid"
    title = "The output does not match the JSON Schema"
    falls_back = True
    may_be_paid = True


class QuotaExhausted(ServiceError):
    """The account may not call the model until `resets_at` (ISO 8601, UTC), or until its owner changes something."""

    code = "quota_exhausted"
    title = "The quota of the account at the provider is used up"
    falls_back = True

    def __init__(self, detail: str = "", *, resets_at: str | None = None) -> None:
        super().__init__(detail)
        self.resets_at = resets_at

    def as_item(self) -> dict[str, Any]:
        return super().as_item() | ({"resets_at": self.resets_at} if self.resets_at else {})


class ModelUnavailable(ServiceError):
    code = "model_unavailable"
    title = "The provider does not offer this model to the account"
    falls_back = True


class GeminiKeyRejected(AccountError):
    status, code = 401, "gemini_key_rejected"
    title = "Google rejected your Gemini key"


class ServerGeminiKeyRejected(AccountError):
    code = "server_gemini_key_rejected"
    title = "Google rejected the service's Gemini key, or none is configured"
