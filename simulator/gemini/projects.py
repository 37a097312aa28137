"""Projects: the owners of keys, and the limits of each project and model, measured exactly.

Each key is a project of its own until it is set to share one. A model's windows count requests and tokens of prompts in
any 60 seconds, from their arrival, and requests in a day that ends at midnight Pacific time. A project's window counts
dollars in any 600 seconds, from the end of each call.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from simulator.accounts import fingerprint
from simulator.first_uses import FirstUses
from simulator.gemini import refusals
from simulator.gemini.books import LaneCounts
from simulator.gemini.dates import PACIFIC, to_midnight
from simulator.gemini.options import GeminiOptions
from simulator.gemini.refusals import Violations
from simulator.windows import SECOND, Window

LIMITS = ("rpm", "tpm", "rpd")
KEY_STATES = ("ok", "invalid", "refused", "leaked")
_MONEY_SPAN = 600 * SECOND
_NO_DAY = 27.9
"""The seconds in the refusal of a limit of 0 a day, which no wait ends."""


@dataclass(slots=True)
class Lane:
    """The windows of one model in one project. `arrived` counts everything, the others what was admitted."""

    requests: Window = field(default_factory=Window)
    tokens: Window = field(default_factory=Window)
    arrived: Window = field(default_factory=Window)
    arrived_tokens: Window = field(default_factory=Window)
    days: dict[str, int] = field(default_factory=dict)


class Project:
    """The limits, windows and first uses of one project."""

    def __init__(self, name: str, options: GeminiOptions) -> None:
        self.name = name
        self.tier = options.tier
        self.refused_count = options.refused_count
        self.limits: dict[str, int | None] = {each: getattr(options, each) for each in LIMITS}
        self.by_model: dict[str, dict[str, int | None]] = {}
        self.usd_per_10_minutes = options.usd_per_10_minutes
        self.lanes: dict[str, Lane] = {}
        self.spent = Window(_MONEY_SPAN)
        self.prompts = FirstUses()

    def limit(self, name: str, model: str) -> int | None:
        """A limit of a model."""
        return self.by_model.get(model, self.limits).get(name, self.limits[name])

    def admit(self, model: str, tokens: int, *, now: int, at: datetime) -> None:
        """Take the places of a request that arrives now.

        Raises:
            Refused: 429, if a limit does not allow it.
        """
        lane = self.lanes.setdefault(model, Lane())
        lane.arrived.add(now)
        lane.arrived_tokens.add(now, tokens)
        day = at.astimezone(PACIFIC).date().isoformat()
        refused = self._refusal(model, lane, tokens, now, at, day)
        if refused is None or self.refused_count:
            lane.requests.add(now)
            lane.tokens.add(now, tokens)
            lane.days[day] = lane.days.get(day, 0) + 1
        if refused is not None:
            raise refused

    def lane_counts(self) -> list[LaneCounts]:
        """The peaks of each model."""
        return [
            LaneCounts(
                project=self.name,
                model=model,
                requests_peak_per_minute=lane.arrived.peak,
                tokens_peak_per_minute=lane.arrived_tokens.peak,
                requests_peak_per_day=max(lane.days.values(), default=0),
            )
            for model, lane in self.lanes.items()
        ]

    def _refusal(
        self, model: str, lane: Lane, tokens: int, now: int, at: datetime, day: str
    ) -> refusals.Refused | None:
        if self.usd_per_10_minutes is not None and self.spent.used(now) >= self.usd_per_10_minutes * 10**6:
            return refusals.out_of_money("spend")
        waits: dict[str, float] = {}
        rpm, tpm, rpd = (self.limit(name, model) for name in LIMITS)
        if rpm is not None and (wait := lane.requests.wait(now, 1, rpm)):
            waits["rpm"] = wait / SECOND
        if tpm is not None and (wait := lane.tokens.wait(now, tokens, tpm)):
            waits["tpm"] = wait / SECOND
        if rpd is not None and lane.days.get(day, 0) >= rpd:
            waits["rpd"] = to_midnight(at) if rpd else _NO_DAY
        if not waits:
            return None
        met = [(name, self.limit(name, model) or 0) for name in waits]
        return refusals.over_quota(Violations(model, met, max(waits.values()), tier=self.tier))


class Projects:
    """All projects, by key."""

    def __init__(self, options: GeminiOptions) -> None:
        self._options = options
        self._projects: dict[str, Project] = {}
        self._names: dict[str, str] = {}
        self._states: dict[str, str] = {}

    def __iter__(self) -> Iterator[Project]:
        return iter(self._projects.values())

    def of(self, key: str) -> Project:
        """The project of a key, made on first use.

        Raises:
            Refused: If the key is not valid.
        """
        state = self._states.get(key, "ok")
        if state == "ok" and "invalid" in key:
            state = "invalid" if key.startswith("AIza") else "refused"
        if state != "ok":
            raise refusals.key(state)
        return self._project(key)

    def configure(self, /, key: str, **changes: Any) -> None:
        """Change the settings of a key and of its project.

        Args:
            key: The key.
            changes: `project` (a name; keys with the same name share their limits), `state` ("ok", "invalid",
                "refused" or "leaked"), `rpm`, `tpm`, `rpd` (whole numbers, or None for no limit),
                `usd_per_10_minutes`, `tier` ("paid" or "free"), `models` (limits by model: {"m": {"rpm": 5}}).

        Raises:
            ValueError: If a change is unknown or invalid. Then no setting is changed.
        """
        if not isinstance(key, str) or not key:
            raise ValueError("a project is configured by a key")
        for name, value in changes.items():
            _check(name, value)
        if "project" in changes:
            self._names[key] = changes.pop("project")
        if "state" in changes:
            self._states[key] = changes.pop("state")
        project = self._project(key)
        for name, value in changes.items():
            if name in LIMITS:
                project.limits[name] = value
            else:
                setattr(project, {"models": "by_model"}.get(name, name), value)

    def change(self, options: GeminiOptions, names: Collection[str]) -> None:
        """Give the named settings of `options` to every project, and all of them to later ones."""
        self._options = options
        for project in self._projects.values():
            for name in names:
                if name in LIMITS:
                    project.limits[name] = getattr(options, name)
                elif name in ("usd_per_10_minutes", "tier", "refused_count"):
                    setattr(project, name, getattr(options, name))

    def _project(self, key: str) -> Project:
        name = self._names.get(key) or f"project-{fingerprint(key)}"
        found = self._projects.get(name)
        if found is None:
            found = self._projects[name] = Project(name, self._options)
        return found


def _check(name: str, value: Any) -> None:
    match name:
        case "project":
            valid = isinstance(value, str) and bool(value)
        case "state":
            valid = value in KEY_STATES
        case "tier":
            valid = value in ("paid", "free")
        case "rpm" | "tpm" | "rpd":
            valid = _is_limit(value)
        case "usd_per_10_minutes":
            valid = value is None or _is_amount(value)
        case "models":
            valid = isinstance(value, dict) and all(_are_limits(each) for each in value.values())
        case _:
            raise ValueError(f"a project has no setting called {name!r}")
    if not valid:
        raise ValueError(f"{name} is invalid: {value!r}")


def _is_amount(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0


def _is_limit(value: Any) -> bool:
    return value is None or (_is_amount(value) and isinstance(value, int))


def _are_limits(value: Any) -> bool:
    return isinstance(value, dict) and all(name in LIMITS and _is_limit(each) for name, each in value.items())
