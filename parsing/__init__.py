"""From the bytes of a body or a query to requests, with all problems reported at once, before anything is spent.

`strict_json.py` and `multipart_form.py` read the two kinds of body; `generation.py`, `batch.py`, `limits.py` and
`queries.py` turn them and queries into requests; `validation.py` words the problems, and `shapes.py` holds the fields
that a body may have beside a model's parameters, and the requests that come out.
"""
