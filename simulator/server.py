"""The HTTP server: all routes on one address."""

import ssl
import time
from pathlib import Path

from aiohttp import web

from simulator.api import Api
from simulator.controls import Controls
from simulator.delivery import Delivery
from simulator.gemini.controls import GeminiControls
from simulator.gemini.web import GeminiApi
from simulator.middleware import Middleware
from simulator.options import Options
from simulator.state import SimulatorState
from simulator.training_api import TrainingApi
from simulator.windows import Clock

_LARGEST_BODY_BYTES = 16 * 2**20
_BACKLOG = 1024
_GRACE_SECONDS = 0.1


class Server:
    """One simulated Replicate on the running event loop.

    Args:
        options: The settings.
        clock: Monotonic nanoseconds, for limits and for the expiry of outputs and uploads.
    """

    def __init__(self, options: Options, *, clock: Clock = time.monotonic_ns) -> None:
        self.state = SimulatorState(options, clock=clock)
        self._options = options
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        """Its address, once started."""
        scheme, host = "https" if self._options.certificate else "http", self._options.host
        return f"{scheme}://[{host}]:{self._port}" if ":" in host else f"{scheme}://{host}:{self._port}"

    async def start(self) -> None:
        """Start to listen.

        Raises:
            OSError: If it cannot use the certificate, or listen on the address.
        """
        tls = _server_context(self._options.certificate)
        # An orderly shutdown would wait for held and hanging responses, so its time is bounded.
        self._runner = web.AppRunner(
            application(self.state), access_log=None, shutdown_timeout=_GRACE_SECONDS
        )
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, self._options.host, self._options.port, backlog=_BACKLOG, ssl_context=tls
        )
        try:
            await site.start()
        except OSError:
            await self.stop()
            raise
        self._port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop listening, and end all connections and tasks."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


def _server_context(certificate: Path | None) -> ssl.SSLContext | None:
    """The TLS context of a server. Raises OSError if the file has no key or no certificate."""
    if certificate is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


def application(state: SimulatorState) -> web.Application:
    """The application with all routes. It does not listen yet."""
    delivery, gemini = Delivery(state), GeminiApi(state.gemini, state.travel)
    app = web.Application(client_max_size=_LARGEST_BODY_BYTES)
    middleware = Middleware(state)
    app.add_routes(TrainingApi(state).routes(middleware))
    app.add_routes(Api(state).routes(middleware))
    app.add_routes(Controls(state).routes())
    app.add_routes(delivery.routes())
    app.add_routes(gemini.routes())
    app.add_routes(GeminiControls(state.gemini).routes())

    async def close(_app: web.Application) -> None:
        gemini.close()
        await state.close()
        delivery.close()

    app.on_cleanup.append(close)
    return app
