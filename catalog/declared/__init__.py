"""The models that this service declares, by kind. `models.py` lists them, and says where their facts are from."""
