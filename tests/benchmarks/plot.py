"""The results as one picture for a README, on a light ground of its own, the same file whenever it is drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tests.benchmarks.panels import FAINT, GROUND, INK, ROWS, SMALL, growth, hot, hot_runs, reading, speeds, statements
from tests.benchmarks.report import Measurement

SETTINGS: dict[Any, Any] = {
    "svg.hashsalt": "agent-progress",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.facecolor": GROUND,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
}

TITLE = "What exact progress costs, beside other ways to keep it"
# In inches, from above. Not one of matplotlib's layout engines: they place things by a solver, whose last digits vary.
_WIDTH, _TITLE, _FOOT = 10.0, 0.5, 0.35
_ABOVE_SPEEDS, _ROW = 0.75, 0.62
_ABOVE, _PANEL, _BELOW = 0.55, 2.25, 0.4

Panel = Callable[[Axes, Mapping[str, Measurement]], None]


def draw(header: Mapping[str, Any], measurements: Sequence[Measurement], path: Path) -> bool:
    """Draw what there is of the measurements into an .svg file; return whether there is anything."""
    by_name = {m.name: m for m in measurements}
    curves: dict[Panel, bool] = {
        reading: "read" in by_name,
        hot: len(hot_runs(by_name)) > 1,
        growth: "growth" in by_name,
        statements: "growth-bulk" in by_name,
    }
    panels = [panel for panel, known in curves.items() if known]
    compared = [by_name[name] for name in ROWS if name in by_name]
    if not compared and not panels:
        return False
    rows = (len(panels) + 1) // 2
    body = _ROW * len(compared)
    height = _TITLE + (_ABOVE_SPEEDS + body + _BELOW if compared else 0) + rows * (_ABOVE + _PANEL + _BELOW) + _FOOT
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(_WIDTH, height), facecolor=GROUND)
        figure.text(0.5, 1 - 0.3 / height, TITLE, ha="center", va="center", fontsize=14, fontweight="bold")

        def place(left: float, top: float, width: float, high: float) -> Axes:
            return figure.add_axes((left / _WIDTH, 1 - (top + high) / height, width / _WIDTH, high / height))

        top = _TITLE
        if compared:
            speeds(place(2.35, top + _ABOVE_SPEEDS, 7.35, body), compared, _wrong(measurements))
            top += _ABOVE_SPEEDS + body + _BELOW
        for number, panel in enumerate(panels):
            down = top + number // 2 * (_ABOVE + _PANEL + _BELOW) + _ABOVE
            panel(place(0.7 if number % 2 == 0 else 5.5, down, 3.05, _PANEL), by_name)
        figure.text(0.5, 0.18 / height, _foot(header), ha="center", va="center", **SMALL)
        figure.savefig(path, metadata={"Date": None})
    return True


def _foot(header: Mapping[str, Any]) -> str:
    version, rounds = header["PostgreSQL"].split()[0], header["rounds"].split(",")[0]
    machine, latency = header["machine"].split(", Linux")[0], header["commit latency"].split(" (")[0]
    return f"PostgreSQL {version}, {machine}, fsync on, commit latency {latency}; {rounds} interleaved rounds"


def _wrong(measurements: Sequence[Measurement]) -> set[str]:
    """Return the variants that left a wrong number anywhere."""
    found = {variant for m in measurements for variant, count in m.wrong.items() if count}
    return found | {v for m in measurements if m.name == "siblings" for v, counts in m.samples.items() if any(counts)}
