"""The models and the rules of fallback, which a program may change before its calls.

Each call reads them anew: `config.FALLBACK_MODELS["your-model"] = {...}` holds for all that come later.
"""

from typing import Any

from replicate_batch_process.catalogue import ModelTable

REPLICATE_MODELS = ModelTable()
"""The models of the service: by full name a dict of `model_type`, `price` (USD), `url`, `description`,
`reference_image`, `reference_audio` and `supported_params`. It is read from the service at its first use."""

_QWEN, _FLUX, _KONTEXT = "qwen/qwen-image", "black-forest-labs/flux-dev", "black-forest-labs/flux-kontext-max"

FALLBACK_MODELS: dict[str, dict[str, dict[str, Any]]] = {
    _FLUX: {
        "reference_image": {"fallback_model": _KONTEXT, "condition": "has_reference_image"},
        "fail": {"fallback_model": _QWEN, "condition": "api_error"},
    },
    _KONTEXT: {
        "parameter_invalidation": {"fallback_model": _QWEN, "condition": "unsupported_params"},
        "fail": {"fallback_model": _QWEN, "condition": "api_error"},
    },
    _QWEN: {"fail": {"fallback_model": _FLUX, "condition": "api_error"}},
    "google/imagen-4-ultra": {"fail": {"fallback_model": _FLUX, "condition": "api_error"}},
}
"""Which model takes over: `reference_image` if there is a reference image, `parameter_invalidation` if the model does
not have one of the parameters, `fail` after a failure. How parameters change between models is the service's part."""

OVERWRITE = False
"""Whether a file that exists is replaced. Otherwise a call that would do so fails before anything is spent."""
