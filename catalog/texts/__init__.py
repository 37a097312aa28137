"""The catalogue of text models: their facts and prices, JSON Schemas of callers, and the story schema."""
