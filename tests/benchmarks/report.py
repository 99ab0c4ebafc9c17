"""Measurements as a table for people and as JSON for machines."""

from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any


@dataclass(frozen=True)
class Target:
    """What a variant must reach beside a reference: at least `limit` for rates, at most for times."""

    variant: str
    reference: str
    limit: float


@dataclass(frozen=True)
class Measurement:
    """The samples of each variant, one a round; `target` is a bare reference where none is set."""

    name: str
    title: str
    unit: str
    samples: dict[str, list[float]]
    target: Target | str

    @property
    def reference(self) -> str:
        return self.target if isinstance(self.target, str) else self.target.reference

    @property
    def steadiest(self) -> bool:
        """Whether the minimum counts instead of the median: nothing makes CPU work faster than it is."""
        return self.unit == "µs"

    def value(self, variant: str) -> float:
        return min(self.samples[variant]) if self.steadiest else median(self.samples[variant])

    def ratios(self, variant: str) -> list[float]:
        """Return the variant divided by the reference, round by round."""
        return [a / b for a, b in zip(self.samples[variant], self.samples[self.reference], strict=False)]

    def ratio(self, variant: str) -> float:
        if self.steadiest:
            return self.value(variant) / self.value(self.reference)
        return median(self.ratios(variant))

    def spread(self, variant: str) -> tuple[float, float]:
        """Return the quartiles of the ratio over the rounds; the extremes where there are few."""
        ratios = self.ratios(variant)
        if len(ratios) < 4:
            return min(ratios), max(ratios)
        first, _, third = quantiles(ratios, n=4, method="inclusive")
        return first, third

    @property
    def noisy(self) -> bool:
        """Whether a quarter of the rounds or more lies on the other side of the limit."""
        if isinstance(self.target, str):
            return False
        low, high = self.spread(self.target.variant)
        return low <= self.target.limit <= high

    @property
    def met(self) -> bool | None:
        if isinstance(self.target, str):
            return None
        ratio = self.ratio(self.target.variant)
        return ratio >= self.target.limit if self.unit == "tps" else ratio <= self.target.limit


def table(measurement: Measurement) -> str:
    """Return the measurement as lines of text."""
    m = measurement
    statistic = "minimum" if m.steadiest else "median"
    lines = [m.title, f"  {'':<28} {m.unit:>10}   ratio  middle half"]
    for variant in m.samples:
        low, high = m.spread(variant)
        line = f"  {variant:<28} {m.value(variant):>10,.{_digits(m.value(variant))}f}  {m.ratio(variant):>6.2f}"
        line += f"  {low:.2f}-{high:.2f}"
        if isinstance(m.target, Target) and variant == m.target.variant:
            sign = "≥" if m.unit == "tps" else "≤"
            line += f"   target {sign} {m.target.limit:.2f}: {'met' if m.met else 'MISSED'}"
            line += ", but within the noise" if m.noisy else ""
        lines.append(line)
    lines.append(f"  ({statistic} of {len(m.samples[m.reference])} rounds; ratios to: {m.reference})")
    return "\n".join(lines) + "\n"


def as_json(header: dict[str, Any], measurements: list[Measurement]) -> dict[str, Any]:
    """Return everything measured, every sample included."""
    return {
        **header,
        "measurements": [
            {
                "name": m.name,
                "title": m.title,
                "unit": m.unit,
                "reference": m.reference,
                "target": None if isinstance(m.target, str) else m.target.limit,
                "met": m.met,
                "noisy": m.noisy,
                "variants": {
                    variant: {
                        "value": round(m.value(variant), 3),
                        "ratio": round(m.ratio(variant), 3),
                        "samples": [round(sample, 3) for sample in samples],
                    }
                    for variant, samples in m.samples.items()
                },
            }
            for m in measurements
        ],
    }


def _digits(value: float) -> int:
    return 0 if value >= 100 else 1 if value >= 10 else 3
