"""Metrics in the text formats of Prometheus and OpenMetrics."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric. `values` has a number for each value of its `label`; without a label, one for the empty text. None
    means that the number is not known, and leaves it out. The name of a counter has no `_total`."""

    name: str
    help: str
    values: Mapping[str, float | None]
    label: str | None = None
    kind: Literal["gauge", "counter"] = "gauge"


def gauge(name: str, help_text: str, value: float | None) -> Metric:
    """A gauge without a label."""
    return Metric(name, help_text, {"": value})


def exposition(metrics: Sequence[Metric], accept: str | None = None) -> tuple[bytes, str]:
    """The metrics as text and its media type, in the format that the header `accept` prefers."""
    # Imported at the first scrape: a start without one needs neither the time nor the memory.
    from prometheus_client.exposition import choose_encoder

    encode, media_type = choose_encoder(accept or "")
    return encode(_Metrics(metrics)), media_type


class _Metrics:
    """What the encoders need of a registry."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> "Iterator[Family]":
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        for each in self._metrics:
            family_of = CounterMetricFamily if each.kind == "counter" else GaugeMetricFamily
            family = family_of(each.name, each.help, labels=[each.label] if each.label else [])
            for label, value in each.values.items():
                if value is not None:
                    family.add_metric([label] if each.label else [], value)
            yield family
