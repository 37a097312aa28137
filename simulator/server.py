"""The server: the world behind its routes, listening on one address."""

import time

from aiohttp import web

from simulator.accounts import Clock
from simulator.api import Api
from simulator.controls import Controls
from simulator.delivery import Delivery
from simulator.middleware import Middleware
from simulator.options import Options
from simulator.state import SimulatorState

_LARGEST_BODY_BYTES = 16 * 2**20
_BACKLOG = 1024
_GRACE_SECONDS = 0.1


class Server:
    """One simulated Replicate on the running event loop.

    Args:
        options: Where to listen and how to behave.
        clock: The monotonic nanoseconds that limits and the life of outputs are measured on.
    """

    def __init__(self, options: Options, *, clock: Clock = time.monotonic_ns) -> None:
        self.state = SimulatorState(options, clock=clock)
        self._options = options
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Where it listens, once started."""
        host = self._options.host
        return f"http://[{host}]:{self._port}" if ":" in host else f"http://{host}:{self._port}"

    async def start(self) -> None:
        """Listen.

        Raises:
            OSError: If the address cannot be listened on.
        """
        # Held and hanging answers would keep an orderly shutdown waiting for as long as they like.
        self._runner = web.AppRunner(
            application(self.state), access_log=None, shutdown_timeout=_GRACE_SECONDS
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._options.host, self._options.port, backlog=_BACKLOG)
        try:
            await site.start()
        except OSError:
            await self.stop()
            raise
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening, end what is held, and leave nothing running."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


def application(state: SimulatorState) -> web.Application:
    """Every route there is, before it listens anywhere."""
    delivery = Delivery(state)
    app = web.Application(client_max_size=_LARGEST_BODY_BYTES)
    app.add_routes(Api(state).routes(Middleware(state)))
    app.add_routes(Controls(state).routes())
    app.add_routes(delivery.routes())

    async def close(_app: web.Application) -> None:
        await state.close()
        delivery.close()

    app.on_cleanup.append(close)
    return app
