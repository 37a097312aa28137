"""The settings of a simulator."""

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from simulator.gemini.options import GeminiOptions

_LARGEST_SKEW = 86_400.0
"""Seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The settings of a simulator, validated when created.

    Args:
        host: The address to listen on. Only loopback without `allow_remote`.
        port: The port to listen on; 0 for a free one.
        allow_remote: Permits a host that other machines can reach. A container needs it.
        certificate: A PEM file with the private key and the certificate of `host`, to serve https. None serves http.
        prediction_seconds: The duration of each prediction; None for the usual duration of its model. With 0 the
            response to a creation already shows its end.
        training_seconds: The duration of each training; None for the usual duration of its trainer.
        weights_need_token: Whether the weights of a training are 401 without a token of its account.
        jitter: The largest deviation of a duration, as a fraction of it. 0 makes durations exact.
        answer_delay: The least and the most seconds of network delay, before a request is counted and again before its
            response is sent.
        clock_skew: The seconds by which its clock is ahead, in all dates that it sends (`Date` included) and in those
            of queries. Negative if it is behind.
        list_lag: The least and the most seconds by which the list of predictions is behind. Each list draws its own lag
            and leaves out predictions created since.
        creations_per_minute: Predictions an account may create in any 60 seconds.
        others_per_minute: Other requests an account may make in any 60 seconds.
        webhook_retry_seconds: The pause before the first retry of a webhook. It doubles with each retry.
        keep: The number of predictions to keep. The oldest is dropped first.
        seed: Makes durations, delays and seeds repeatable. None makes them random.
        models: Directories with further models, a file each (`loading`).
        boot_seconds: How long each community model boots before its first prediction; None for what its file says.
        gemini: The settings of the simulated Gemini.

    Raises:
        ValueError: If a setting is invalid. The message names it.
    """

    host: str = "127.0.0.1"
    port: int = 0
    allow_remote: bool = False
    certificate: Path | None = None
    prediction_seconds: float | None = None
    training_seconds: float | None = None
    weights_need_token: bool = False
    jitter: float = 0.2
    answer_delay: tuple[float, float] = (0.0, 0.0)
    clock_skew: float = 0.0
    list_lag: tuple[float, float] = (0.0, 0.0)
    creations_per_minute: int = 600
    others_per_minute: int = 3000
    webhook_retry_seconds: float = 0.5
    keep: int = 100_000
    seed: int | None = None
    models: tuple[Path, ...] = ()
    boot_seconds: float | None = None
    gemini: GeminiOptions = field(default_factory=GeminiOptions)

    def __post_init__(self) -> None:
        if not self.allow_remote and not _is_loopback(self.host):
            raise ValueError(f"host must be loopback unless allow_remote is set, got {self.host!r}")
        if not 0 <= self.port <= 65535:
            raise ValueError(f"port must be between 0 and 65535, got {self.port}")
        if self.certificate is not None and not self.certificate.is_file():
            raise ValueError(f"certificate must be a file, got {str(self.certificate)!r}")
        for name, most in (
            ("prediction_seconds", 1800),
            ("training_seconds", 21_600),
            ("boot_seconds", 3600),
        ):
            _check_seconds(name, getattr(self, name), most)
        _check_directories(self.models)
        if not 0 <= self.jitter < 1:
            raise ValueError(f"jitter must be at least 0 and below 1, got {self.jitter}")
        _check_bounds("answer_delay", self.answer_delay)
        _check_bounds("list_lag", self.list_lag)
        if not -_LARGEST_SKEW <= self.clock_skew <= _LARGEST_SKEW:
            raise ValueError(f"clock_skew must be a day at the most, got {self.clock_skew}")
        if self.webhook_retry_seconds <= 0:
            raise ValueError(f"webhook_retry_seconds must be above 0, got {self.webhook_retry_seconds}")
        for name in ("creations_per_minute", "others_per_minute", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")


def _check_bounds(name: str, bounds: tuple[float, float]) -> None:
    least, most = bounds
    if not 0 <= least <= most:
        raise ValueError(f"{name} must be (least, most) seconds, got {bounds}")


def _check_seconds(name: str, seconds: float | None, most: float) -> None:
    if seconds is not None and not 0 <= seconds <= most:
        raise ValueError(f"{name} must be between 0 and {most}, got {seconds}")


def _check_directories(directories: tuple[Path, ...]) -> None:
    for directory in directories:
        if not directory.is_dir():
            raise ValueError(f"models must be directories, got {str(directory)!r}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
