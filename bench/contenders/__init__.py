"""Contenders: this service, and other ways to do the same.

Each is a process, `python -m bench.contenders.NAME PICTURES SLOTS [FAILING]`. It makes PICTURES pictures of flux-dev
with at most SLOTS predictions at once; the first FAILING prompts fail transiently once. It prints one line of JSON at
the end. `task.py` has the shared code. No contender is tuned or restrained. Each docstring describes the effects that
its user would not notice. They run in `.venv-bench`, so that their packages stay out of the project.
"""
