"""Builds the service without HTTP, for unit tests.

- `core` and `parts` make a `generations.core.Core` on the loop of the test; `parts` connects it to the simulator.
  Backoffs and searches for lost creations take milliseconds instead of seconds.
- `MemoryProvider` is a provider without a network, for claims about time that are checked in virtual time.
- `Wire` is a server that sends arbitrary bytes, for answers that the simulator does not give.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from auth import Authenticator, Caller, credentials
from catalog.outputs import Url
from cluster.letters import Letters
from concurrency import Gate
from generations import views
from generations.batch import Batch
from generations.core import Core, FullProvider
from generations.generation import Generation
from generations.retries import FIRST_BACKOFF
from generations.submission import Submission, body_fingerprint, request_texts
from generations.supervisor import new_id
from ledger import Source
from ledger.memory import MemoryLedger
from ledger.records import PlanRecord
from ledger.rivals import OtherAttempts
from loop_thread import Pool
from parsing.attachments import Attachments
from parsing.shapes import BatchRequest, GenerationRequest
from providers import Prediction
from providers.replicate.absence import SearchTiming
from providers.replicate.access import Access, Timing
from providers.replicate.api import Timeouts
from providers.replicate.client import ReplicateClient
from providers.replicate.errors import cause_of
from providers.replicate.provider import Replicate
from providers.replicate.transport import Connections, HttpConnections
from settings import Settings
from simulator import Simulator
from tests.support.callers import SERVER_TOKEN, USER_TOKEN
from tests.support.declarations import CONTEXT, parse_batch, parse_generation
from tests.support.records import api_key

T = TypeVar("T")

ADMIN = Caller("admin", "admin", credentials(replicate=SERVER_TOKEN))
USER = Caller("user", "user_1", credentials(replicate=USER_TOKEN))
KEYS = [
    Caller("key", each.id, credentials(replicate=SERVER_TOKEN), key=each) for each in map(api_key, range(3))
]
"""Named keys: callers on the server's token."""

OTHER_USER = Caller("user", "user_2", credentials(replicate="r8_another"))

UNPLANNED = PlanRecord("queue", 0.0, 0.0, 0)
"""For batches in tests that do not check the plan."""

ADDRESS = "http://service.test"

QUICK = (0.02, 0.1, 0.2)

QUICK_SEARCH = SearchTiming(
    quick=(0.0025, 0.0075, 0.015),
    pause=0.025,
    long_pause=0.075,
    long_from=0.6,
    late=(0.15, 0.3, 0.6, 1.2, 2.4),
    patience=3.0,
    least=0.075,
    drained=0.025,
    unknown=0.45,
    between=0.0025,
    per_item=0.00001,
)
"""The usual search, 200 times as fast."""


def on_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an async test on a new loop, in real time."""

    @functools.wraps(test)
    def run(*arguments: Any, **named: Any) -> None:
        asyncio.run(test(*arguments, **named))

    return run


def a_picture(prompt: str = "A lighthouse at dusk", **fields: Any) -> GenerationRequest:
    """A parsed request for a generation."""
    return parse_generation({"model_name": "flux-dev", "prompt": prompt, **fields})


def pictures(prompts: list[str], **fields: Any) -> BatchRequest:
    """A parsed request for a batch."""
    return parse_batch({"model_name": "flux-dev", "prompts": prompts, **fields})


class Immediate(MemoryLedger):
    """A ledger that commits every change at once."""

    def _commit_in(self, seconds: float) -> None:  # noqa: ARG002
        if self.trouble is None:
            self._commit_all()


class TransitionLedger(Immediate):
    """A ledger that records every transition of a generation."""

    def __init__(self) -> None:
        super().__init__()
        self.flushed = 0
        self.moves: list[tuple[Generation, str]] = []
        self.on_move: list[Callable[[Generation], object]] = []
        self._states: dict[str, str] = {}

    def mark_dirty(self, source: Source) -> None:
        super().mark_dirty(source)
        if isinstance(source, Generation):
            before = self._states.get(source.id)
            self._states[source.id] = source.state
            if before not in {None, source.state}:
                self.moves.append((source, source.state))
                for listener in self.on_move:
                    listener(source)

    async def flush(self) -> None:
        self.flushed += 1
        await super().flush()


class AtOnce(Pool):
    """Runs functions on the loop: virtual time has no other threads."""

    def __init__(self) -> None: ...

    async def run(self, function: Callable[[], T]) -> T:
        found = function()
        await asyncio.sleep(0)  # a thread's result arrives in a later turn of the loop
        return found

    def start(self, function: Callable[[], object]) -> None:
        function()


def settings(**named: Any) -> Settings:
    """Settings by their names."""
    return Settings.from_env({name: str(value) for name, value in named.items()})


def core(
    provider: FullProvider,
    *,
    gate: Gate | None = None,
    ledger: MemoryLedger | None = None,
    outputs: Any = None,
    first_backoff: float = FIRST_BACKOFF,
    attachments: Attachments | None = None,
    letters: Letters | None = None,
    **named: Any,
) -> Core:
    """A `Core` on the loop of the test. Everything but the ledger is as in production, unless an argument
    replaces it."""
    ledger = ledger or TransitionLedger()
    return Core(
        settings(**named),
        ledger=ledger,
        queries=ledger,
        provider=provider,
        gate=gate or Gate(concurrent_limit=50, requests_per_minute=600),
        threads=AtOnce(),
        cpu=AtOnce(),
        authenticator=Authenticator(admin_key=None, server_token=SERVER_TOKEN),
        attachments=attachments or Attachments(None),
        context=CONTEXT,
        outputs=outputs,
        first_backoff=first_backoff,
        letters=letters,
    )


def submission(
    request: GenerationRequest | BatchRequest,
    caller: Caller = ADMIN,
    *,
    plan: PlanRecord = UNPLANNED,
    simulated: bool = True,
    **fields: Any,
) -> Submission:
    """A submission of this request, with usual values for all other fields."""
    is_batch = isinstance(request, BatchRequest)
    work_id = new_id("batch" if is_batch else "gen")
    texts = request_texts(work_id, request, Attachments(None))
    usual: dict[str, Any] = {
        "request_id": "req",
        "address": ADDRESS,
        "fingerprint": body_fingerprint("", texts),
    }
    return Submission(
        id=work_id,
        request=request,
        request_json=texts,
        caller=caller,
        simulated=simulated,
        plan=plan if is_batch else None,
        **usual | fields,
    )


async def run(inside: Core, request: GenerationRequest, *, caller: Caller = ADMIN) -> Generation:
    """Run a generation to its end. Cancelling the wait cancels the generation."""
    generation = inside.supervisor.accept(submission(request, caller))
    assert isinstance(generation, Generation)
    await inside.supervisor.wait(generation)
    return generation


async def run_batch(
    inside: Core,
    request: BatchRequest,
    *,
    caller: Caller = ADMIN,
    plan: PlanRecord = UNPLANNED,
    on_end: Callable[[Batch, int], object] | None = None,
) -> Batch:
    """Run a batch to its end. `on_end` is called for each item as it ends."""
    batch = inside.supervisor.accept(submission(request, caller, plan=plan))
    assert isinstance(batch, Batch)
    if on_end is not None:
        inside.supervisor.follow(batch, on_end)
    await inside.supervisor.wait(batch)
    return batch


def result(work: Generation) -> dict[str, Any]:
    """The body of a generation that has ended."""
    return views.generation(work.record(), ADDRESS)


@dataclass
class Parts:
    gate: Gate
    others: Gate
    provider: Replicate
    core: Core
    ledger: TransitionLedger
    base_url: str
    connections: Connections
    client: ReplicateClient
    """A client apart from the provider's, with the same connections and windows."""

    async def run(
        self, prompt: str = "A lighthouse at dusk", *, caller: Caller = ADMIN, **fields: Any
    ) -> Generation:
        """Run a generation to its end."""
        return await run(self.core, a_picture(prompt, **fields), caller=caller)

    async def run_batch(self, prompts: list[str], *, caller: Caller = ADMIN, **fields: Any) -> Batch:
        """Run a batch to its end."""
        return await run_batch(self.core, pictures(prompts, **fields), caller=caller)


@asynccontextmanager
async def parts(
    base_url: str | Simulator,
    *,
    concurrent_limit: int = 50,
    requests_per_minute: int = 600,
    others_per_minute: int = 3000,
    reserve: float = 0.0,
    timeout: float = 20,  # noqa: ASYNC109 - the service's own
    create_timeout: float = 30.0,
    poll_timeout: float = 10.0,
    search: SearchTiming = QUICK_SEARCH,
    connections: Connections | None = None,
    may_send: Callable[[], bool] | None = None,
    elsewhere: OtherAttempts | None = None,
) -> AsyncIterator[Parts]:
    """A core connected to a simulator; see `Timing` for the seconds."""
    base_url = base_url.url if isinstance(base_url, Simulator) else base_url
    gate = Gate(
        concurrent_limit=concurrent_limit,
        requests_per_minute=requests_per_minute,
        interactive_reserve=reserve,
    )
    others = Gate(concurrent_limit=200, requests_per_minute=others_per_minute)
    timeouts = Timeouts(create=create_timeout, poll=poll_timeout)
    connections = connections or HttpConnections()
    client = ReplicateClient(
        base_url=base_url, timeouts=timeouts, others=others, may_send=may_send, connections=connections
    )
    access = Access(
        base_url=base_url,
        others=others,
        timing=Timing(
            timeouts=timeouts,
            search=search,
            cancel_pauses=QUICK,
            upload_pause=0.01,
        ),
        on_answer=gate.upstream_answered,
        may_send=may_send,
        connections=connections,
    )
    provider = Replicate(access, elsewhere=elsewhere)
    ledger = TransitionLedger()
    inside = core(provider, gate=gate, ledger=ledger, first_backoff=0.01, GENERATION_TIMEOUT=timeout)
    try:
        yield Parts(gate, others, provider, inside, ledger, base_url, connections, client)
    finally:
        others.configure(requests_per_minute=3000)
        await inside.supervisor.drain(0)
        await provider.aclose()


async def poll_once(service: Parts, prediction_id: str = "p1") -> Prediction:
    """Poll a prediction once, as the watcher does."""
    with await service.others.acquire("admin") as lease:
        return await service.provider.poll(ADMIN, prediction_id, lease)


async def run_with_faults(
    simulator: Simulator, faults: list[dict[str, Any]], *, on: str, times: int = 1, **timing: Any
) -> list[tuple[dict[str, Any], Generation, list[Any]]]:
    """Run one generation for each fault concurrently, each on its own account. Returns each fault with its
    generation and the predictions made for it."""
    callers = [
        Caller("user", f"user_{number}", credentials(replicate=f"r8_{number}"))
        for number in range(len(faults))
    ]
    for caller, fault in zip(callers, faults, strict=True):
        simulator.inject(on=on, times=times, token=caller.credentials["replicate"], **fault)
    async with parts(simulator, **timing) as service:
        endings = await asyncio.gather(*(service.run("[[slow=0.01]]", caller=caller) for caller in callers))
    made = simulator.predictions()
    return [
        (fault, ended, [each for each in made if each.token == caller.credentials["replicate"]])
        for caller, fault, ended in zip(callers, faults, endings, strict=True)
    ]


async def until(condition: Callable[[], bool], *, within: float = 10) -> None:
    """Let other tasks run until the condition holds. Raises TimeoutError if it never does."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the simulator's thread
            await asyncio.sleep(0)


async def meanwhile(act: Callable[[], object], task: asyncio.Task[T]) -> T:
    """The result of `task`, while `act` is called again and again.

    `meanwhile(simulator.finish, task)` ends each prediction that `task` waits for, as soon as it is there."""
    while not task.done():
        act()
        await asyncio.wait([task], timeout=0.01)
    return await task


def succeeded() -> Prediction:
    return Prediction("", "succeeded", (Url("https://replicate.delivery/a.jpg"),))


def failed(error: str | None) -> Prediction:
    return Prediction("", "failed", error=error, cause=cause_of(error))


@dataclass(frozen=True)
class Seen:
    """A request as received on the wire; header names are in lower case."""

    method: str
    target: str
    headers: dict[str, str]


Answer = Callable[[Seen], Awaitable[bytes | None]]


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
    *,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """The URL of a server on loopback that serves each connection with this handler. Open connections end
    with the block. With `tls` its name is `localhost`."""
    connections: set[asyncio.Task[None]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        connections.add(task)
        await serve(reader, writer)

    server = await asyncio.start_server(tracked, "127.0.0.1", 0, ssl=tls)
    try:
        host = "https://localhost" if tls else "http://127.0.0.1"
        yield f"{host}:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


class Wire:
    """A server that records requests and sends the bytes of `answer(seen)`; None closes the connection."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self.seen: list[Seen] = []
        self.url = ""

    @asynccontextmanager
    async def listening(self) -> AsyncIterator["Wire"]:
        async with listening(self._serve) as self.url:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, target, _ = head[0].split(" ")
                pairs = (line.partition(": ") for line in head[1:] if line)
                headers = {name.lower(): value for name, _, value in pairs}
                await reader.readexactly(int(headers.get("content-length", "0")))
                self.seen.append(Seen(method, target, headers))
                answer = await self._answer(self.seen[-1])
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()


def wire(answer: Answer) -> AbstractAsyncContextManager[Wire]:
    """A `Wire` that listens while the block runs."""
    return Wire(answer).listening()


def reply(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """The bytes of an HTTP answer that keeps the connection open."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body
