"""The results as one picture for a README, on a light ground of its own, the same file whenever it is drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

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

Panel = Callable[[Axes, Mapping[str, Measurement]], None]


def draw(header: Mapping[str, Any], measurements: Sequence[Measurement], path: Path) -> bool:
    """Draw what there is of the measurements into an .svg or a .png file; return whether there is anything."""
    by_name = {m.name: m for m in measurements}
    curves: dict[Panel, bool] = {
        reading: "read" in by_name,
        hot: len(hot_runs(by_name)) > 1,
        growth: "growth" in by_name,
        statements: "growth-bulk" in by_name,
    }
    panels = [panel for panel, known in curves.items() if known]
    compared = [by_name[name] for name in ROWS if name in by_name]
    rows = (len(panels) + 1) // 2
    heights = [0.62 * len(compared) + 1.0 if compared else 0, 3.0 * rows, 0.3]
    if not compared and not panels:
        return False
    with matplotlib.rc_context(SETTINGS):
        layout = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.1, wspace=0, hspace=0)
        figure = Figure(figsize=(10, sum(heights) + 0.3), facecolor=GROUND, layout=layout)
        figure.suptitle("What exact progress costs, beside other ways to keep it", fontsize=14, fontweight="bold")
        parts: Any = figure.subfigures(3, 1, height_ratios=[height or 0.01 for height in heights])
        top, bottom, foot = parts
        if compared:
            speeds(top.subplots(), compared, _wrong(measurements))
        grid = bottom.add_gridspec(max(1, rows), 2)
        for place, panel in enumerate(panels):
            panel(bottom.add_subplot(grid[place // 2, place % 2]), by_name)
        for part in parts:
            part.set_facecolor(GROUND)
        machine = header["machine"].split(", Linux")[0]
        latency = header["commit latency"].split(" (")[0]
        said = f"PostgreSQL {header['PostgreSQL'].split()[0]}, {machine}, fsync on, commit latency {latency}"
        foot.text(0.5, 0.5, f"{said}; {header['rounds'].split(',')[0]} interleaved rounds", ha="center", **SMALL)
        figure.savefig(path, dpi=110, metadata={"Date": None} if path.suffix == ".svg" else None)
    return True


def _wrong(measurements: Sequence[Measurement]) -> set[str]:
    """Return the variants that left a wrong number anywhere."""
    found = {variant for m in measurements for variant, count in m.wrong.items() if count}
    return found | {v for m in measurements if m.name == "siblings" for v, counts in m.samples.items() if any(counts)}
