"""The metrics that exist: docs/metrics.md, which is made from the catalogue in shield/telemetry."""

from __future__ import annotations

import pathlib
import re
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).resolve().parents[2]

#: What Prometheus makes of one metric.
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
#: What is not ours, and may be asked for: Prometheus's own of alerts, and of what pushes.
FOREIGN = {"ALERTS": None, "target_info": None}
#: Labels that everything has.
COMMON_LABELS = {"__name__", "job", "instance"}


@dataclass(frozen=True)
class Metric:
    """A row of the catalogue."""

    name: str
    kind: str
    label: str | None

    def series(self) -> tuple[str, ...]:
        """The names that Prometheus has it under."""
        base = self.name.removesuffix("_total") if self.kind == "counter" else self.name
        return tuple(base + suffix for suffix in SUFFIXES[self.kind])


def read() -> dict[str, Metric]:
    """Every metric, by each name that Prometheus has it under."""
    text = (ROOT / "docs/metrics.md").read_text()
    # | `name` | kind | unit | `label` | meaning |
    row = re.compile(r"^\| `(\w+)` \| (counter|gauge|histogram) \| [^|]* \| ([^|]*) \|", re.M)
    found: dict[str, Metric] = {}
    for name, kind, label in row.findall(text):
        metric = Metric(name, kind, label.strip("` ") or None)
        found |= dict.fromkeys(metric.series(), metric)
    if not found:
        raise SystemExit("docs/metrics.md has no metric")
    return found
