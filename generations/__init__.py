"""Generations and batches, from submission to the end. Everything here runs on the event loop.

What happens to a generation, in order:

1. `service.py` takes a submission (`submission.py`); its idempotency key may belong to earlier work
   (`idempotency.py`).
2. `supervisor.py` accepts it within the budget (`budget.py`, `shared_budget.py`), alone or in a batch
   (`batch.py`), and starts a task for it.
3. `lifecycle.py` runs it: attempts with retries and fallback, then the outputs, then the end.
4. `attempt.py` makes one attempt: admission, creation, and the wait for the prediction. `push.py` receives the
   webhooks of Replicate; `late.py` handles a prediction that is found after its attempt.
5. `generation.py` holds its state. `views.py` and `status.py` make the response bodies and estimates from it,
   and `events.py` the stream of events. `elsewhere.py` follows work that another process runs, by its rows.
6. After a restart, `recovery.py` restores unfinished work, and `suspension.py` keeps users' work until they
   return.
7. `archive.py` reads work that has ended; `retention.py` deletes it in the end.

`limits.py` keeps the limits that `/configure` sets, and `semaphores.py` the named semaphores and their leases.

`core.py` builds all of it.
"""
