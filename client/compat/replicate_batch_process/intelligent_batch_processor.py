"""Batches: many prompts for one model, or requests with any models. Each is one batch of the service."""

import asyncio
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

from replicate_concurrent import ApiError, AsyncBatchHandle, AsyncClient, Generation, ReplicateConcurrentError
from replicate_concurrent.batches.planning import chunks

from replicate_batch_process import config, saving
from replicate_batch_process.catalogue import Models
from replicate_batch_process.connection import options
from replicate_batch_process.file_names import distinct, ending, new_stem
from replicate_batch_process.global_concurrency_manager import GlobalReplicateConcurrencyManager
from replicate_batch_process.jobs import Job, Jobs
from replicate_batch_process.outcomes import BatchResult, Files, error_of

__all__ = ["BatchRequest", "BatchResult", "IntelligentBatchProcessor", "intelligent_batch_process"]

log = logging.getLogger(__package__)

_SAVED_AT_ONCE = 8
"""Files that are fetched at once. The service serves them beside its other callers."""

_PATH = "output_filepath"

_ITEM = re.compile(r"requests\[(\d+)\]\.?(.*)")


@dataclass
class BatchRequest:
    """One request of a batch. `kwargs` are the parameters of its model."""

    prompt: str
    model_name: str
    output_filepath: str | PathLike[str] | None = None
    kwargs: dict[str, Any] | None = None
    request_id: str = ""

    def __post_init__(self) -> None:
        self.kwargs = {} if self.kwargs is None else self.kwargs
        self.request_id = self.request_id or f"req_{uuid.uuid4().hex}"

    @property
    def params(self) -> dict[str, Any]:
        """The parameters of the model, without a path that stands among them."""
        return {name: value for name, value in (self.kwargs or {}).items() if name != _PATH}

    @property
    def path(self) -> str | None:
        """The path of its file, which may also stand in `kwargs`."""
        path = self.output_filepath or (self.kwargs or {}).get(_PATH)
        return fspath(path) if path else None

    def result(self, **outcome: Any) -> BatchResult:
        return BatchResult(self.request_id, self.prompt, self.model_name, **outcome)


class IntelligentBatchProcessor:
    """Processes batches.

    Args:
        max_concurrent: Predictions of a batch in flight at once, at most.
        rate_limit_per_minute: Of no effect, as `max_retries` and `retry_delay`: the service has the limits of the
            account, and repeats what may succeed.
        progress_callback: Called with the number of results so far, that of all, and the `BatchResult`.
        replicate_api_token: The token that pays; else that of the environment.
        global_max_concurrent: A further bound of `max_concurrent`.
    """

    def __init__(
        self,
        max_concurrent: int = 8,
        rate_limit_per_minute: int = 600,
        max_retries: int = 3,
        retry_delay: float = 2.0,
        progress_callback: Callable[[int, int, BatchResult], object] | None = None,
        replicate_api_token: str | None = None,
        global_max_concurrent: int | None = None,
    ) -> None:
        self.max_concurrent = max_concurrent
        self.rate_limit_per_minute = rate_limit_per_minute
        self.max_retries = max_retries
        self.retry_delay = retry_delay
        self.progress_callback = progress_callback
        self.global_manager = GlobalReplicateConcurrencyManager(replicate_api_token, global_max_concurrent)
        self.completed_results: list[BatchResult] = []
        self.failed_tasks: list[BatchResult] = []
        self.stats: dict[str, float] = {}
        self._token = replicate_api_token

    async def process_intelligent_batch(
        self, requests: Sequence[BatchRequest], max_concurrent: int | None = None
    ) -> list[BatchResult]:
        """The outcome of each request, in the order of the requests. A request that cannot be sent has its own error.

        If it is cancelled, what has not ended is cancelled at the service. Raises an error of `replicate_concurrent`
        if the service cannot be reached or refuses the whole batch.
        """
        bounds = [max_concurrent or self.max_concurrent, self.global_manager.global_max_concurrent]
        run, started = _Run(requests, self.progress_callback), time.time()
        if jobs := await run.prepare(Jobs(self._token)):
            async with AsyncClient(**options(self._token)) as client:
                for chunk in chunks(jobs):
                    await run.process(client, chunk, max_concurrent=min(filter(None, bounds)))
        results = run.results
        self.completed_results = [each for each in results if each.success]
        self.failed_tasks = [each for each in results if not each.success]
        self.stats = {
            "start_time": started,
            "end_time": time.time(),
            "total_submitted": len(results),
            "total_completed": len(self.completed_results),
            "total_failed": len(self.failed_tasks),
            "total_retried": 0,  # the service repeats what may succeed
        }
        return results


class _Run:
    """One batch: its requests, and their results so far."""

    def __init__(
        self, requests: Sequence[BatchRequest], callback: Callable[[int, int, BatchResult], object] | None
    ) -> None:
        self._requests = requests
        self._callback = callback
        self._done: dict[int, BatchResult] = {}
        self._savers = asyncio.Semaphore(_SAVED_AT_ONCE)

    @property
    def results(self) -> list[BatchResult]:
        return [self._done[number] for number in range(len(self._requests))]

    async def prepare(self, maker: Jobs) -> list[Job]:
        """What to send. Any other request has its result."""
        made = await asyncio.to_thread(self._made, maker)
        for number, job in enumerate(made):
            if isinstance(job, Exception):
                self._finish(number, success=False, error=str(job), duration=0.0)
        return [job for job in made if isinstance(job, Job)]

    def _made(self, maker: Jobs) -> list[Job | Exception]:
        found = list[Job | Exception]()
        paths = iter(distinct([each.path for each in self._requests if each.path]))
        for number, each in enumerate(self._requests):
            path = next(paths) if each.path else None
            try:
                found.append(maker.job(each.prompt, each.model_name, path, each.params, number=number))
            except (ValueError, OSError) as error:
                found.append(error)
        return found

    async def process(self, client: AsyncClient, jobs: list[Job], *, max_concurrent: int) -> None:
        """Generate and save. What the service refuses of it has its own error, and the others are sent without it."""
        while jobs:
            try:
                batch = await _submitted(client, [job.request for job in jobs], max_concurrent)
            except ApiError as refusal:
                refused = self._refused(jobs, refusal)
                if not refused:
                    raise
                jobs = [job for job in jobs if job.number not in refused]
                continue
            try:
                await self._follow(client, batch, jobs)
            except asyncio.CancelledError:
                await asyncio.shield(batch.cancel())
                raise
            except ReplicateConcurrentError as trouble:
                text = f"{batch.id} goes on at the service, but cannot be followed: {trouble}"
                for job in jobs:
                    if job.number not in self._done:
                        self._finish(job.number, success=False, error=text)
            return

    async def _follow(self, client: AsyncClient, batch: AsyncBatchHandle, jobs: list[Job]) -> None:
        saving = set[asyncio.Task[None]]()
        try:
            async for made in batch.results():
                saving.add(asyncio.create_task(self._save(client, made, jobs[made.index or 0])))
            await asyncio.gather(*saving)
        finally:
            for task in saving:
                task.cancel()
            await asyncio.gather(*saving, return_exceptions=True)

    async def _save(self, client: AsyncClient, made: Generation, job: Job) -> None:
        """Write the files of one result. What cannot be written is a failure, in which the id names the work."""
        error, paths = error_of(made), list[str]()
        if error is None or made.placeholder:
            try:
                async with self._savers:
                    paths = await saving.save_async(client, made, job.path, overwrite=config.OVERWRITE)
            except (ReplicateConcurrentError, OSError) as trouble:
                error = error or f"{made.id} was made, but not saved: {trouble}"
        seconds = made.raw.get("timing", {}).get("total")
        self._finish(
            job.number, success=error is None, file_paths=paths or None, error=error, duration=seconds
        )

    def _refused(self, jobs: list[Job], refusal: ApiError) -> set[int]:
        """The numbers of the jobs that a refusal names. Each has its result then."""
        reasons = dict[int, list[str]]()
        for problem in refusal.fields:
            if item := _ITEM.match(problem.field):
                reasons.setdefault(int(item[1]), []).append(f"{item[2]}: {problem.message}")
        for index, problems in reasons.items():
            text = f"{refusal.code}: {'; '.join(problems)}"
            self._finish(jobs[index].number, success=False, error=text, duration=0.0)
        return {jobs[index].number for index in reasons}

    def _finish(self, number: int, **outcome: Any) -> None:
        result = self._done[number] = self._requests[number].result(**outcome)
        if self._callback is not None:
            try:
                self._callback(len(self._done), len(self._requests), result)
            except Exception:
                log.exception("progress_callback failed")


async def _submitted(
    client: AsyncClient, items: Sequence[dict[str, Any]], max_concurrent: int
) -> AsyncBatchHandle:
    """A batch that the service has accepted. If this is cancelled meanwhile, so is the batch."""
    submission = asyncio.ensure_future(client.submit_batch(requests=items, max_concurrent=max_concurrent))
    try:
        return await asyncio.shield(submission)
    except asyncio.CancelledError:
        with suppress(ReplicateConcurrentError):
            await (await submission).cancel()
        raise


async def intelligent_batch_process(
    prompts: Sequence[str],
    model_name: str,
    max_concurrent: int = 8,
    output_dir: str = "output/intelligent_batch",
    *,
    output_filepath: str | PathLike[str] | Sequence[str | PathLike[str]] | None = None,
    replicate_api_token: str | None = None,
    global_max_concurrent: int | None = None,
    **common_kwargs: Any,
) -> Files:
    """Generate each prompt with one model. Returns the paths of the files that it made, in the order of the prompts.

    `output_filepath` is a path for each prompt, or one that is numbered; without it, files have new names in
    `output_dir`. Raises ValueError for a model that the service does not have, and for another number of paths.
    """
    models = Models(config.REPLICATE_MODELS, replicate_api_token)
    kind = await asyncio.to_thread(models.kind, model_name)
    if output_filepath is None:
        stem = new_stem(output_dir, f"intelligent_{model_name}")
        paths = [f"{stem}_{number:03d}{ending(kind)}" for number in range(len(prompts))]
    elif isinstance(output_filepath, (str, PathLike)):
        paths = [fspath(output_filepath)] * len(prompts)
    else:
        paths = [fspath(each) for each in output_filepath]
    if len(paths) != len(prompts):
        raise ValueError(f"output_filepath has {len(paths)} paths for {len(prompts)} prompts")
    stamp = int(time.time())
    requests = [
        BatchRequest(prompt, model_name, path, dict(common_kwargs), f"intelligent_{stamp}_{number:03d}")
        for number, (prompt, path) in enumerate(zip(prompts, paths, strict=True))
    ]
    processor = IntelligentBatchProcessor(
        max_concurrent, replicate_api_token=replicate_api_token, global_max_concurrent=global_max_concurrent
    )
    results = await processor.process_intelligent_batch(requests)
    made = [path for each in results if each.success for path in each.file_paths or ()]
    error = next((each.error for each in results if not each.success), None)
    return Files(made, error=error, results=results)
