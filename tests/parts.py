"""The inside of the service without its HTTP door: what the tests of its parts share.

- `parts` wires gate, provider and generations as `service.py` does, on the test's own loop, in front of the
  simulator. What takes seconds in production (looks for a lost creation, back-offs) takes milliseconds here.
- `Fake` is a provider without a network, for claims about time that are checked in virtual time.
- `Wire` is a server that answers bytes as told, for what no decent server does, not even the simulator.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass

from callers import SERVER_TOKEN, USER_TOKEN

from admission.forecast import Plan
from auth import Caller
from concurrency import Gate
from errors import LedgerDown, UpstreamError
from generation import Generations
from intake.parsing import parse_batch, parse_generation
from providers import Created, Prediction, TryAgain
from providers.replicate import Replicate
from records import Batch, Generation
from simulator import Simulator
from tables import WRITINGS
from telling import View

ADMIN = Caller("admin", "admin", SERVER_TOKEN)
USER = Caller("user", "user_1", USER_TOKEN)
OTHER_USER = Caller("user", "user_2", "r8_another")

UNPLANNED = Plan("queue", 0.0, 0.0, 0)
"""For batches of whose plan nothing is claimed."""

VIEW = View(simulated=True, address="http://service.test")

QUICK_LOOKS = (0.02, 0.1, 0.2)


def on_a_loop(test):
    """Run an async test on a loop of its own, on real time."""

    @functools.wraps(test)
    def run(*arguments, **named):
        asyncio.run(test(*arguments, **named))

    return run


def a_picture(prompt: str = "A lighthouse at dusk", **fields):
    """A valid request, as the HTTP door would have parsed it."""
    return parse_generation({"model_name": "flux-dev", "prompt": prompt, **fields})


def pictures(prompts: list[str], **fields):
    """A valid batch, as the HTTP door would have parsed it."""
    return parse_batch({"model_name": "flux-dev", "prompts": prompts, **fields})


class Notes:
    """A ledger without a disk: `rows` by table and key, as the latest that were put. While there is `trouble`, nothing
    is on the disk, and who awaits that hears so."""

    def __init__(self) -> None:
        self.rows: dict[tuple, dict] = {}
        self.trouble: str | None = None
        self.synced_times = 0
        self.moves: list[tuple[Generation, str]] = []
        """Every transition of a generation, in order."""
        self.listeners: list[Callable[[Generation], object]] = []
        """Told of every transition, too."""

    def note(self, table, work) -> None:
        row, before = work.row(), self.rows.get((table, work.id))
        self.put(table, row)
        if table == "generations" and before is not None and before["state"] != row["state"]:
            self.moves.append((work, work.state))
            for listener in self.listeners:
                listener(work)

    def put(self, table, row) -> None:
        self.rows[table, *WRITINGS[table].key_of(row)] = dict(row)

    def remove(self, table, *key) -> None:
        self.rows.pop((table, *key), None)

    async def synced(self) -> None:
        self.synced_times += 1
        if self.trouble:
            raise LedgerDown(self.trouble)

    def of(self, table) -> list[dict]:
        """A table's rows, in the order of their first writing."""
        return [row for (name, *_), row in self.rows.items() if name == table]


async def run(generations: Generations, request, *, caller: Caller = ADMIN) -> Generation:
    """How one generation ended. Whoever stops waiting has it cancelled."""
    generation = generations.accept(request, caller=caller, request_id="req")
    await generations.attend(generation)
    return generation


async def run_batch(generations: Generations, request, *, caller: Caller = ADMIN, plan=UNPLANNED, tell=None):
    """How a batch ended; `tell` hears of each item as it ends."""
    batch = generations.accept_batch(request, plan=plan, caller=caller, request_id="req")
    if tell is not None:
        generations.follow(batch, tell)
    await generations.attend(batch)
    return batch


@dataclass
class Parts:
    gate: Gate
    others: Gate
    provider: Replicate
    generations: Generations
    ledger: Notes

    async def run(self, prompt: str = "A lighthouse at dusk", *, caller: Caller = ADMIN, **fields):
        """How one generation ended."""
        return await run(self.generations, a_picture(prompt, **fields), caller=caller)

    async def run_batch(self, prompts: list[str], *, caller: Caller = ADMIN, **fields) -> Batch:
        """How a batch ended."""
        return await run_batch(self.generations, pictures(prompts, **fields), caller=caller)


@asynccontextmanager
async def parts(
    base_url: str | Simulator,
    *,
    concurrent_limit: int = 50,
    requests_per_minute: int = 600,
    others_per_minute: int = 3000,
    reserve: float = 0.0,
    timeout: float = 20,  # noqa: ASYNC109 - the service's own
    **timing,
) -> AsyncIterator[Parts]:
    """The inside of a service in front of a simulator; `timing` is what `Replicate` takes."""
    base_url = base_url.url if isinstance(base_url, Simulator) else base_url
    gate = Gate(
        concurrent_limit=concurrent_limit,
        requests_per_minute=requests_per_minute,
        interactive_reserve=reserve,
    )
    others = Gate(concurrent_limit=200, requests_per_minute=others_per_minute)
    provider = Replicate(
        base_url=base_url,
        others=others,
        **{"looks": QUICK_LOOKS, "cancel_pauses": QUICK_LOOKS, "upload_pause": 0.01, **timing},
    )
    ledger = Notes()
    generations = Generations(
        provider=provider,
        gate=gate,
        ledger=ledger,
        timeout=timeout,
        max_queued=20_000,
        first_backoff=0.01,
    )
    try:
        yield Parts(gate, others, provider, generations, ledger)
    finally:
        others.configure(requests_per_minute=3000)
        await generations.drain(0)
        await provider.aclose()


async def look(service: Parts, prediction_id: str = "p1") -> Prediction:
    """One look at one prediction, as the watcher makes it."""
    with await service.others.acquire("admin") as lease:
        return await service.provider._get(ADMIN, prediction_id, lease)


async def suffered(simulator: Simulator, faults: list[dict], *, on: str, times: int = 1, **timing):
    """What becomes of one generation for each fault, at once, each paid by an account of its own: a list of the
    fault, how the generation ended, and the predictions that were made for it."""
    callers = [Caller("user", f"user_{number}", f"r8_{number}") for number in range(len(faults))]
    for caller, fault in zip(callers, faults, strict=True):
        simulator.order(on=on, times=times, token=caller.token, **fault)
    async with parts(simulator, **timing) as service:
        endings = await asyncio.gather(*(service.run("[[slow=0.01]]", caller=caller) for caller in callers))
    made = simulator.predictions()
    return [
        (fault, ended, [each for each in made if each.token == caller.token])
        for caller, fault, ended in zip(callers, faults, endings, strict=True)
    ]


async def until(condition: Callable[[], bool], *, within: float = 10) -> None:
    """Let everything else run until it holds. Raises TimeoutError if it never does."""
    async with asyncio.timeout(within):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in the simulator's thread
            await asyncio.sleep(0)


class Fake:
    """A provider on the loop's clock. Its creations end as `outcomes` say, in order, and well after that;
    an outcome is an exception, or how the prediction ends (None: never)."""

    def __init__(self, *outcomes, answer_after: float = 0.25, ends_after: float = 1.0) -> None:
        self._outcomes = list(outcomes)
        self._answer_after = answer_after
        self._ends_after = ends_after
        self._ends: dict[str, Prediction | None] = {}
        self.sent: list[tuple[float, str]] = []
        """When, by the loop's clock, and whose."""
        self.cancelled: list[str] = []

    async def upload(self, caller, upload) -> str:  # noqa: ARG002
        return "https://api.replicate.com/v1/files/f1"

    async def create(self, caller, model, sent, *, lease, **how) -> Created:  # noqa: ARG002
        lease.sent()
        self.sent.append((asyncio.get_running_loop().time(), caller.id))
        prediction_id = f"p{len(self.sent)}"
        outcome = self._outcomes.pop(0) if self._outcomes else succeeded()
        await asyncio.sleep(self._answer_after)
        if isinstance(outcome, Exception):
            raise outcome
        self._ends[prediction_id] = outcome
        return Created(Prediction(prediction_id, "starting"))

    async def recover(self, caller, model, *, content, since, reference) -> Created:  # noqa: ARG002
        raise TryAgain(UpstreamError("Replicate did not take the prediction."))

    def lose(self, reference, caller_id, model, *, content, since) -> None: ...

    def know(self, ids) -> None: ...

    def tell(self, reference, told) -> None: ...

    async def webhook_secret(self, caller) -> str:  # noqa: ARG002
        return "whsec_c2VjcmV0"

    def follow(self, prediction_id, listener):  # noqa: ARG002
        return lambda: None

    async def finished(self, caller, prediction, *, model, announced=False) -> Prediction:  # noqa: ARG002
        end = self._ends[prediction.id]
        if end is None:
            await asyncio.get_running_loop().create_future()
        await asyncio.sleep(self._ends_after)
        return Prediction(prediction.id, end.status, end.outputs, end.error)

    async def cancel(self, caller, prediction) -> None:  # noqa: ARG002
        await asyncio.sleep(self._answer_after)
        self.cancelled.append(prediction.id)

    async def aclose(self) -> None:
        pass


def succeeded() -> Prediction:
    return Prediction("", "succeeded", ("https://replicate.delivery/a.jpg",))


def failed(error: str | None) -> Prediction:
    return Prediction("", "failed", error=error)


@dataclass(frozen=True)
class Seen:
    """A request as it came over the wire; header names in lower case."""

    method: str
    target: str
    headers: dict[str, str]


Answer = Callable[[Seen], Awaitable[bytes | None]]


@asynccontextmanager
async def listening(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """The URL of a server on loopback that serves each connection so; what is left of them ends with the block."""
    connections: set[asyncio.Task[None]] = set()

    async def tracked(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.add(asyncio.current_task())
        await serve(reader, writer)

    server = await asyncio.start_server(tracked, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


class Wire:
    """A server that remembers what came and sends what `answer(seen)` gives; None hangs up."""

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


def wire(answer: Answer):
    """A `Wire` that listens while the block runs."""
    return Wire(answer).listening()


def reply(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """An HTTP answer that keeps the connection."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
    )
    return head.encode() + body
