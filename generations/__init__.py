"""Generations and batches, from submission to the end. Everything here runs on the event loop.

What happens to a generation, in order:

1. `service.py` takes a `submission.py`; its key may belong to earlier work (`idempotency.py`).
2. `supervisor.py` accepts it within the `budget.py`, alone or in a `batch.py`, and starts a task for it.
3. `lifecycle.py` runs it: attempts with retries and fallback, then the outputs, then the end.
4. `attempt.py` makes one attempt: admission, creation, and the wait for the prediction. `push.py` receives the
   webhooks of Replicate; `late.py` handles a prediction that is found after its attempt.
5. `generation.py` holds its facts. Callers see them as `views.py`, with estimates by `status.py`, or as `events.py`.
6. After a restart, `recovery.py` restores unfinished work, and `suspension.py` keeps that of users until they return.
7. `archive.py` reads work that has ended; `retention.py` deletes it in the end.

`core.py` builds all of it.
"""
