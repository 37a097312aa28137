"""The doors: APIs of other services, translated from and into the one of this service.

Each door is pure translation, without Flask: requests into bodies of `POST /generate` and `/generate-batch`, and
results and errors into the door's own shape. `api/` has their routes.
"""
