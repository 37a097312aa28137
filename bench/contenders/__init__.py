"""Contenders: this service, and what a user would write or install instead of it.

Each is a process of its own, `python -m bench.contenders.NAME PICTURES SLOTS [FAILING]`, that has PICTURES
pictures of flux-dev made with at most SLOTS of them in the making, the first FAILING of which fail in passing at
their first try, and ends with a line of JSON; `task.py` is what they share. None is tuned and none is held back:
each says in its docstring what its user gets without knowing it. They run in `.venv-bench`, so that what they
need stays out of the project.
"""
