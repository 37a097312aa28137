"""The routes for operators: limits, statistics and health."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import structlog
from flask import Blueprint, Response, g, jsonify, request

from admission.snapshot import GateStats, StallStats
from api import call_figures, incoming, roles
from cluster.figures import ProcessFigures
from contract.providers import CALLS, CREATIONS
from contract.states import iso8601
from errors import LedgerDown
from generations.figures import WorkFigures, concurrency_figures, total
from parsing.limits import nested, parse_limits
from providers import UpstreamState
from service import NAME, VERSION, Runtime

_HOUR: Final = 3600.0

log = structlog.get_logger("http")

routes = Blueprint("admin", __name__)


@routes.post("/configure")
def configure() -> Response:
    """Change the limits, also for later starts."""
    service = incoming.service()
    principal = incoming.require_admin()
    with incoming.body(principal.id) as body:
        limits = parse_limits(body)
    configured = service.configure(limits, roles.actor(), disconnect=incoming.connection())
    who = {"caller": principal.id, "peer": request.remote_addr}
    log.info("configured", request=g.request_id, **who, **limits.as_sent())
    return jsonify(configured | {CALLS: call_figures.shown(service, call_figures.seen(service))})


@routes.get("/status")
def status() -> Response:
    """The statistics, with the processes for each known key, and with more for admins and viewers. A wrong key is no
    error, since the rest is public."""
    service = incoming.service()
    principal = incoming.known()
    sees_all = principal is not None and principal.sees_all
    return jsonify(_figures(service, for_admin=sees_all, for_key=principal is not None))


@routes.get("/health")
def health() -> Response:
    """Whether this process accepts work."""
    return jsonify(incoming.service().health())


@routes.get("/health/live")
def live() -> Response:
    """Whether the event loop runs. If not, only a restart helps."""
    return jsonify(incoming.service().live())


@routes.get("/health/ready")
def ready() -> Response:
    """Whether a balancer should send callers here."""
    return jsonify(incoming.service().ready())


def _figures(service: Runtime, *, for_admin: bool, for_key: bool) -> dict[str, Any]:
    """Waits only for one call on the loop and, for the admin, one read of the ledger."""
    seen, calls = figures_of(service), call_figures.seen(service)
    return {
        "service": NAME,
        "version": VERSION,
        "uptime_seconds": round(time.monotonic() - service.started, 1),
        "simulated": service.settings.REPLICATE_SIMULATE,
        "admin_api_configured": service.settings.admin_key is not None,
        "default_replicate_token_configured": service.settings.replicate_token is not None,
        "ledger": "ok" if service.ledger.trouble is None else "down",
        "concurrency": concurrency_figures(seen.gate),
        CALLS: call_figures.shown(service, calls),
        "upstream": _upstream(seen.gate.stall, seen.upstream),
        "polling": {
            "requests_per_minute_limit": service.settings.REPLICATE_OTHER_REQUESTS_PER_MINUTE,
            "current_rate_per_minute": seen.work.polls_per_minute,
        },
        "generations": seen.work.ended,
        "trainings": {
            "at_once": service.settings.TRAININGS_AT_ONCE,
            "running": seen.work.trainings_running,
            "waiting": seen.work.trainings_waiting,
        },
        "account_shared": seen.work.account_shared,
        "account_changed_at": _moment(seen.account_changed_at),
        "clock_skew_seconds": None if seen.clock_skew is None else round(seen.clock_skew, 1),
        **({"processes": [_process(each) for each in seen.processes]} if for_key and seen.processes else {}),
        **(_for_admin(service, seen) if for_admin else {}),
    }


def providers(service: Runtime) -> dict[str, Any]:
    """Each provider's health, limits, and slots in use and waiting."""
    seen = figures_of(service)
    return {
        CREATIONS: {
            "configured": service.settings.replicate_token is not None,
            "concurrency": concurrency_figures(seen.gate),
            "upstream": _upstream(seen.gate.stall, seen.upstream),
        },
        CALLS: call_figures.shown(service, call_figures.seen(service)),
    }


@dataclass(frozen=True, slots=True)
class Seen:
    """The state of the loop at one moment. `work` is that of all `processes`, and `own` that of this one."""

    gate: GateStats
    work: WorkFigures
    own: WorkFigures
    processes: Sequence[ProcessFigures]
    clock_skew: float | None
    account_changed_at: float | None
    upstream: UpstreamState


def figures_of(service: Runtime) -> Seen:
    """The present figures."""
    return service.loop.call(lambda: _of_the_loop(service))


def budget_left(service: Runtime) -> float | None:
    """USD that are left of the server's budget; None without one."""
    return service.loop.run(_budget_left(service))


def _of_the_loop(service: Runtime) -> Seen:
    core = service.core
    processes = core.processes()
    of_each = [WorkFigures.from_json(each.figures) for each in processes]
    own = core.figures(service.others)
    return Seen(
        gate=service.gate.statistics(),
        work=total(of_each or [own]),
        own=own,
        processes=processes,
        clock_skew=core.provider.clock_skew,
        account_changed_at=core.provider.tokens.account_changed_at,
        upstream=core.provider.upstream,
    )


def _upstream(stall: StallStats, state: UpstreamState) -> dict[str, Any]:
    return {
        "last_answer_at": _moment(state.last_answer_at),
        "failing_since": _moment(state.failing_since),
        "throttled_until": _moment(state.throttled_until),
        "stalled": stall.is_on,
        "stalled_at": _moment(stall.stalled_at),
        "back_at": _moment(stall.back_at),
        "creations_in_doubt": stall.in_doubt,
    }


def _for_admin(service: Runtime, seen: Seen) -> dict[str, Any]:
    left = budget_left(service)
    waiting = seen.work.oldest_waiting_seconds
    return {
        "configured_limits": nested(service.core.limits.configured),
        "budget_left_usd": left,
        "oldest_waiting_seconds": None if waiting is None else round(waiting, 1),
        "failures_last_hour": _failures(service),
    }


async def _budget_left(service: Runtime) -> float | None:
    """USD that are left of the budget. On the loop."""
    await service.core.budget.server.refresh()
    return service.core.budget.server.left


def _process(process: ProcessFigures) -> dict[str, Any]:
    work = WorkFigures.from_json(process.figures)
    return {
        "host": process.host,
        "pid": process.pid,
        "version": process.version,
        "since": iso8601(process.since),
        "in_flight": work.in_flight,
        "waiting": work.waiting,
        "holds_gate": process.holds_gate,
    }


def _failures(service: Runtime) -> dict[str, int] | None:
    """The number of generations that failed within an hour, by code; None while the ledger cannot be read."""
    simulated = service.settings.REPLICATE_SIMULATE
    try:
        return dict(service.queries.failures(time.time() - _HOUR, simulated=simulated))
    except LedgerDown:
        return None


def _moment(at: float | None) -> str | None:
    return None if at is None else iso8601(at)
