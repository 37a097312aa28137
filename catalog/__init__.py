"""The catalog of models: their inputs, prices and reference images, and which model is tried when another fails.

`model.py` defines a model, `registry.py` holds the known models, `fallback.py` and `adaptation.py` lead
from one to another, and `drift.py` compares them with what Replicate publishes. `models.py` declares them.
"""
