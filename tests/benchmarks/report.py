"""Measurements as a table for people."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from statistics import median, quantiles
from typing import Any

# What is better when there is more of it.
_RATES = ("tps", "%")
# Nothing makes work smaller than it is: the minimum counts, not the median.
_STEADY = ("µs", "bytes")


@dataclass(frozen=True)
class Target:
    """What a variant must reach: at least `limit` for rates, at most for costs; times a reference, if there is one."""

    variant: str
    limit: float
    reference: str | None = None


@dataclass(frozen=True)
class Measurement:
    """The samples of each variant, one a round; none where this server cannot have it.

    Ratios are to the variant `reference`; None where the lines are too different to be compared. `wrong` counts the
    workflows whose stored numbers were wrong after a run, the most of all runs.
    """

    name: str
    title: str
    unit: str
    samples: dict[str, list[float]]
    reference: str | None
    targets: tuple[Target, ...] = ()
    wrong: Mapping[str, int] = field(default_factory=dict)

    @property
    def steady(self) -> bool:
        return self.unit in _STEADY

    @property
    def rate(self) -> bool:
        return self.unit in _RATES

    def value(self, variant: str) -> float:
        return min(self.samples[variant]) if self.steady else median(self.samples[variant])

    def ratios(self, variant: str, reference: str | None) -> list[float]:
        """Return the variant divided by the reference, round by round; the samples themselves without one."""
        if reference is None:
            return self.samples[variant]
        return [_over(a, b) for a, b in zip(self.samples[variant], self.samples[reference], strict=False)]

    def ratio(self, variant: str, reference: str | None) -> float:
        if self.steady:
            return _over(self.value(variant), self.value(reference) if reference else 1)
        return median(self.ratios(variant, reference))

    def spread(self, variant: str, reference: str | None) -> tuple[float, float]:
        """Return the quartiles of the ratio over the rounds; the extremes where there are few."""
        ratios = self.ratios(variant, reference)
        if len(ratios) < 4:
            return min(ratios), max(ratios)
        first, _, third = quantiles(ratios, n=4, method="inclusive")
        return first, third

    def met(self, target: Target) -> bool:
        ratio = self.ratio(target.variant, target.reference)
        return ratio >= target.limit if self.rate else ratio <= target.limit

    def noisy(self, target: Target) -> bool:
        """Whether a quarter of the rounds or more lies on the other side of the limit."""
        low, high = self.spread(target.variant, target.reference)
        return low < target.limit < high


def _over(value: float, reference: float) -> float:
    return value / reference if reference else 1 if value == 0 else inf


def table(m: Measurement) -> str:
    """Return the measurement as lines of text."""
    width = max(30, *(len(variant) for variant in m.samples))
    lines = [m.title, f"  {'':<{width}} {m.unit:>10}" + ("   ratio  middle half" if m.reference else "")]
    for variant, samples in m.samples.items():
        if not samples:
            lines.append(f"  {variant:<{width}} not installed")
            continue
        line = f"  {variant:<{width}} {number(m.value(variant)):>10}"
        if m.reference:
            low, high = m.spread(variant, m.reference)
            line += f"  {m.ratio(variant, m.reference):>6.2f}  {low:.2f}-{high:.2f}"
        if m.wrong.get(variant):
            line += f"   WRONG: {m.wrong[variant]:,} workflow{'s' if m.wrong[variant] > 1 else ''}"
        lines.append(line)
    for target in m.targets:
        if not m.samples[target.variant]:
            continue
        verdict = ("met" if m.met(target) else "MISSED") + (", but within the noise" if m.noisy(target) else "")
        sign = "≥" if m.rate else "≤"
        if target.reference:
            wanted = f"{sign} {target.limit:.2f} of {target.reference}"
            found = f"{m.ratio(target.variant, target.reference):.2f}"
        else:
            wanted, found = f"{sign} {target.limit:g} {m.unit}", number(m.value(target.variant))
        lines.append(f"  target: {target.variant} {wanted}: {found}, {verdict}")
    rounds = max(len(samples) for samples in m.samples.values())
    statistic = "once" if rounds == 1 else f"{'minimum' if m.steady else 'median'} of {rounds} rounds"
    lines.append(f"  ({statistic}{f'; ratios to: {m.reference}' if m.reference else ''})")
    return "\n".join(lines) + "\n"


def heading(header: Mapping[str, Any]) -> str:
    return "".join(f"{name + ':':<16} {value}\n" for name, value in header.items())


def number(value: float) -> str:
    """Return a figure with about three digits that count."""
    if value == int(value):
        return f"{value:,.0f}"
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 3}f}"
