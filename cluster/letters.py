"""Requests between the processes that share a ledger: to the process that runs a generation, or that holds the gate.

A request is a letter in the database, and so is its answer. A process handles a letter at most once. If the letter, its
answer or the recipient is lost, the sender gets an error after a bounded time and may ask again.
"""

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final, NoReturn

import structlog

from errors import Internal, LedgerDown, ServiceError
from errors.listing import restored
from ledger.post import GATE, Letter, Post
from loop_thread import wait_for_event

TIMEOUT: Final = 10.0
"""Seconds to wait for an answer."""

_PAUSE: Final = 1.0
"""Seconds between two looks for letters while notices work, and between two attempts while the ledger is down."""

_POLL_PAUSE: Final = 0.25
_QUICK_POLL_PAUSE: Final = 0.05
"""The same without notices, and while an answer is awaited."""

_CHECK_PAUSE: Final = 1.0
"""Seconds between two looks whether the recipient is alive."""

_REMEMBERED: Final = 1_000
"""Letters whose ids are kept. After a crash of the database it may have letters again that were read."""

_ANSWER: Final = "answer"
_ONE_WAY: Final = "one_way_"
"""The beginning of the ids of letters that need no answer."""

Json = Any
Handler = Callable[[Json], Awaitable[Json]]

log = structlog.get_logger("cluster")


class Letters:
    """The letters of this process. Use it on the loop. It reads letters while `run` runs."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._handlers: dict[str, Handler] = {}
        self._recipients = {post.process}
        self._awaited: dict[str, asyncio.Future[Json]] = {}
        self._handled: OrderedDict[str, None] = OrderedDict()
        self._handling: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()

    @property
    def process(self) -> str:
        """The id of this process."""
        return self._post.process

    def on(self, kind: str, handler: Handler) -> None:
        """Handle letters of this kind: `handler` gets the body, and the result is the answer. Both are JSON. A
        ServiceError is raised again in the sending process."""
        self._handlers[kind] = handler

    def hold(self, recipient: str) -> None:
        """Read letters to this recipient, too, from now on."""
        self._recipients.add(recipient)
        self._post.listen(recipient, self._news.set)

    def release(self, recipient: str) -> None:
        """End that. The next holder reads its letters."""
        self._recipients.discard(recipient)
        self._post.unlisten(recipient)

    async def tell(self, recipient: str, kind: str, body: Json) -> None:
        """Send a letter that needs no answer. Raises LedgerDown if it cannot be sent."""
        if recipient in self._recipients:
            await self._handle(kind, body)
        else:
            await self._send(_ONE_WAY + secrets.token_hex(8), recipient, kind, body)

    async def ask(
        self,
        recipient: str,
        kind: str,
        body: Json,
        *,
        timeout: float = TIMEOUT,  # noqa: ASYNC109
    ) -> Json:
        """Send a letter, and return the answer. Raises the ServiceError of the other process, and LedgerDown if that
        is dead or does not answer for `timeout` seconds; then it may still act on the letter."""
        if recipient in self._recipients:
            return await self._handle(kind, body)
        letter_id = secrets.token_hex(8)
        answer = self._awaited[letter_id] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await self._send(letter_id, recipient, kind, body)
                self._news.set()  # without notices, look more often from now on
                while not (await asyncio.wait([answer], timeout=_CHECK_PAUSE))[0]:
                    if recipient != GATE and recipient not in await self._post.others():
                        _raise_dead()
        except TimeoutError:
            raise LedgerDown(
                f"Another process of the service has not answered for {timeout:g} seconds."
            ) from None
        finally:
            del self._awaited[letter_id]
        return _opened(answer.result())

    async def ask_all(self, kind: str, body: Json, *, timeout: float = TIMEOUT) -> list[Json]:  # noqa: ASYNC109
        """Ask all processes, and this one first. Returns their answers. Processes that fail have none."""
        answers = [await self._handle(kind, body)]
        others = await self._post.others()
        requests = (self.ask(each, kind, body, timeout=timeout) for each in others)
        for answer in await asyncio.gather(*requests, return_exceptions=True):
            if isinstance(answer, ServiceError):
                log.info("process_not_reached", kind=kind, reason=str(answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                answers.append(answer)
        return answers

    async def run(self) -> NoReturn:
        """Read letters until it is cancelled."""
        self._post.listen(self.process, self._news.set)
        try:
            while True:
                self._news.clear()
                pause = self._pause()
                try:
                    for letter in await self._post.take(self._recipients):
                        self._receive(letter)
                except LedgerDown:
                    pause = _PAUSE
                except Exception:  # this task must go on
                    log.exception("letters_failed")
                    pause = _PAUSE
                await wait_for_event(self._news, pause)
        finally:
            self._post.unlisten(self.process)
            for task in self._handling:
                task.cancel()

    def _pause(self) -> float:
        if self._post.notices_work:
            return _PAUSE
        return _QUICK_POLL_PAUSE if self._awaited else _POLL_PAUSE

    def _receive(self, letter: Letter) -> None:
        if letter.id in self._handled:
            return
        self._handled[letter.id] = None
        if len(self._handled) > _REMEMBERED:
            self._handled.popitem(last=False)
        if letter.kind != _ANSWER:
            task = asyncio.create_task(self._answer(letter))
            self._handling.add(task)
            task.add_done_callback(self._handling.discard)
        elif (future := self._awaited.get(letter.reply_to or "")) is not None and not future.done():
            future.set_result(json.loads(letter.body))

    async def _answer(self, letter: Letter) -> None:
        try:
            answer = {"result": await self._handle(letter.kind, json.loads(letter.body))}
        except ServiceError as error:
            answer = {"error": _error_as_json(error)}
        except Exception:
            log.exception("letter_failed", kind=letter.kind)
            answer = {"error": _error_as_json(Internal())}
        if not letter.id.startswith(_ONE_WAY):
            with suppress(LedgerDown):  # the sender gets an error when its time is over
                await self._send(secrets.token_hex(8), letter.sender, _ANSWER, answer, reply_to=letter.id)

    async def _handle(self, kind: str, body: Json) -> Json:
        handler = self._handlers.get(kind)
        if handler is None:
            raise Internal(f"This process does not handle letters of the kind {kind}.")
        return await handler(body)

    async def _send(
        self, letter_id: str, recipient: str, kind: str, body: Json, *, reply_to: str | None = None
    ) -> None:
        letter = Letter(
            id=letter_id,
            sender=self.process,
            recipient=recipient,
            kind=kind,
            body=json.dumps(body),
            reply_to=reply_to,
        )
        if not await self._post.send(letter):
            _raise_dead()


def _raise_dead() -> NoReturn:
    raise LedgerDown(
        "The process of the service that runs it has ended. Another one takes over within seconds."
    )


def _opened(answer: Mapping[str, Json]) -> Json:
    """The result in an answer. Raises its error."""
    if (item := answer.get("error")) is not None:
        raise _error_of(item)
    return answer["result"]


def _error_as_json(error: ServiceError) -> Mapping[str, Json]:
    return {
        **error.as_item(),
        "is_outage": isinstance(error, LedgerDown),
        "may_be_paid": error.may_be_paid,
        "retry_after": getattr(error, "retry_after", None),
    }


def _error_of(item: Mapping[str, Json]) -> ServiceError:
    error = LedgerDown(item["detail"]) if item["is_outage"] else restored(item)
    error.may_be_paid = item["may_be_paid"]
    if item["retry_after"] is not None:
        vars(error).update(retry_after=item["retry_after"], was_created=False)
    return error
