"""Turns the bytes of a body or a query into requests, and reports all problems at once, before anything is spent.

`strict_json.py` and `multipart_form.py` read the two kinds of body; `generation.py`, `batch.py`, `limits.py` and
`queries.py` turn them and queries into requests; `validation.py` turns pydantic's errors into problems, and
`shapes.py` has the fields of a body beside the parameters of a model, and the resulting requests.
"""
