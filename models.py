"""The declared models, each with its aliases, its price and the rules that its schema does not say.

The inputs of a model are its published schema, saved in `catalog/schemas/<owner>/<name>.json` (from
replicate.com/<owner>/<name>/api/schema). Prices are those of the models' pages. If a model's launch page and its live
schema disagree, the stricter value counts: the launch page of qwen-image allows 100 steps, but the model refuses 51.
The defaults are documentation: a parameter that the caller leaves out is not sent, so that the defaults of Replicate
apply. `python -m models --check` compares the saved schemas with Replicate's. To add a model, follow
docs/architecture.md.

Tiers and credits belong to this service, for operators who sell plans. Credits follow the price of an ordinary call.
"""

import sys
from typing import Final

from catalog.declared.images import IMAGES
from catalog.declared.videos import VIDEOS
from catalog.model import Model
from catalog.registry import Registry, Rules
from catalog.tariff import PUBLISHED, Tariff

MODELS: Final[tuple[Model, ...]] = (*IMAGES, *VIDEOS)


def declared(rules: Rules | None = None, tariff: Tariff = PUBLISHED) -> Registry:
    """A registry of the models above. `rules` replace the fallbacks that they declare, and a `tariff` their prices."""
    return Registry(map(tariff.priced, MODELS), rules=rules)


if __name__ == "__main__":
    from catalog import drift  # not above, since it loads httpx, which the service does not use

    sys.exit(drift.main(sys.argv[1:], declared()))
