"""The functions of `replicate-batch-process` 1.1.1, carried out by the service through `replicate_concurrent`.

docs/migrate.md of the service lists what differs.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

from replicate_batch_process.original import refuse_the_original

if TYPE_CHECKING:
    from replicate_batch_process.intelligent_batch_processor import (
        BatchRequest,
        IntelligentBatchProcessor,
        intelligent_batch_process,
    )
    from replicate_batch_process.main import replicate_model_calling
    from replicate_batch_process.outcomes import BatchResult

__all__ = [
    "BatchRequest",
    "BatchResult",
    "IntelligentBatchProcessor",
    "intelligent_batch_process",
    "replicate_model_calling",
]

__version__ = "1.1.1"
"""The version of the original whose functions these are."""

_MODULES = {"replicate_model_calling": "main", "BatchResult": "outcomes"}
"""Where a name is defined; all others are in `intelligent_batch_processor`."""

refuse_the_original()
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES.get(name, 'intelligent_batch_processor')}"), name)


def __dir__() -> list[str]:
    return __all__
