"""The catalog of models: their inputs, prices and reference images, and how they compare with what Replicate publishes.

`models.py` declares the models with it.
"""
