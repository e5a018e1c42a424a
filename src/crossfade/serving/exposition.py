"""Prometheus' text format: families of numbers, each with its help, type and labelled samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from crossfade.serving.tally import Series

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
"""Upper ends of the histogram's buckets, in seconds; a compiled model answers within the first ones."""


@dataclass(frozen=True)
class Metric:
    """One family of numbers."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    meaning: str
    over_workers: Callable[[Iterable[float]], float] = sum
    """Makes one number of a gauge's in the workers that live. One with labels is left out where it is 0."""


def family_text(metric: Metric, found: Mapping[Series, float]) -> str:
    """Write one family with its numbers among those that were found."""
    lines = [f"# HELP {metric.name} {metric.meaning}", f"# TYPE {metric.name} {metric.kind}"]
    if metric.kind == "histogram":
        lines += _buckets(metric, found)
    else:
        mine = sorted(series for series in found if series[0] == metric.name)
        lines += [_sample(metric.name, metric.labels, series[1:], found[series]) for series in mine]
    return "\n".join(lines) + "\n"


def _buckets(metric: Metric, found: Mapping[Series, float]) -> list[str]:
    """Write a histogram: each bucket holds those below it too."""
    lines = []
    for variant in sorted({series[1] for series in found if series[0] == f"{metric.name}_sum"}):
        below = 0.0
        for bound in (*map(str, BOUNDS), "+Inf"):
            below += found.get((f"{metric.name}_bucket", variant, bound), 0.0)
            lines.append(_sample(f"{metric.name}_bucket", (*metric.labels, "le"), (variant, bound), below))
        lines.append(_sample(f"{metric.name}_sum", metric.labels, (variant,), found[f"{metric.name}_sum", variant]))
        lines.append(_sample(f"{metric.name}_count", metric.labels, (variant,), below))
    return lines


def _sample(name: str, labels: tuple[str, ...], values: tuple[str, ...], number: float) -> str:
    told = ",".join(f'{label}="{_escaped(value)}"' for label, value in zip(labels, values, strict=True))
    shown = str(int(number)) if number.is_integer() else repr(number)
    return f"{name}{{{told}}} {shown}" if told else f"{name} {shown}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
