"""The parts of the picture: speeds beside each other, and curves over growing sizes."""

import re
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

from tests.benchmarks.report import Measurement

INK, FAINT, GROUND = "#1f2933", "#d9dee4", "#fbfcfd"
# Colours that also differ for the colour-blind, beside shapes; drawn in this order, ours on top.
STYLES = {
    "no trigger (count on read)": ("#8a94a0", "o"),
    "updating any one row": ("#8a94a0", "o"),
    "count on read": ("#8a94a0", "o"),
    "application, two statements": ("#e5a823", "v"),
    "application, one CTE": ("#c9661a", "^"),
    "row-level trigger": ("#8458b3", "s"),
    "recount trigger": ("#c2185b", "X"),
    "maintained view (pg_ivm)": ("#2e8b6f", "P"),
    "ours": ("#0f4fc4", "D"),
}
# Speeds beside each other: measurement, how its row is called (with figures of its title), beside what.
ROWS = {
    "complete": "complete a task",
    "start": "start a task",
    "insert": "create a task",
    "bulk-one": "complete {0},\n1 workflow, 1 statement",
    "bulk-many": "complete {0} each,\n{1} workflows, 1 statement",
    "copy": "COPY of {0}",
}
WRONG = ": wrong numbers"
BOLD: Mapping[str, Any] = {"fontweight": "bold"}
SMALL: Mapping[str, Any] = {"fontsize": 8.5, "color": "#5f6b7a"}

Lines = dict[str, list[tuple[float, float]]]


def speeds(axes: Axes, measurements: Sequence[Measurement], wrong: set[str]) -> None:
    """One row a measurement, one mark a way of counting: its speed beside that without any."""
    drawn = set()
    for row, m in enumerate(measurements):
        marks = {variant: _speed(m, variant) for variant in STYLES if m.samples.get(variant)}
        axes.plot([min(marks.values()), max(marks.values())], [row, row], color=FAINT, linewidth=5, zorder=1)
        for variant, speed in marks.items():
            colour, marker = STYLES[variant]
            size = 10 if variant == "ours" else 9
            axes.plot(speed, row, color=colour, marker=marker, markersize=size, markeredgecolor=GROUND, zorder=3)
            drawn.add(variant)
        if "ours" in marks:
            above: dict[str, Any] = {"xytext": (0, 8), "textcoords": "offset points", "ha": "center"}
            axes.annotate(f"{marks['ours']:.0%}", (marks["ours"], row), **above, **BOLD, color=STYLES["ours"][0])
    axes.axvline(1, color="#8a94a0", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(measurements)), [_called(m) for m in measurements])
    axes.set_ylim(len(measurements) - 0.5, -0.7)
    axes.set_xlim(0, None)
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid(axis="x", color=FAINT, linewidth=0.7)
    axes.spines["left"].set_visible(False)
    axes.set_title(
        "Speed beside a table without any trigger (further right is faster)", loc="left", fontsize=11, **BOLD, pad=34
    )
    legend = [
        Line2D([], [], color=colour, marker=marker, linestyle="", markersize=7.5, label=name + WRONG * (name in wrong))
        for name, (colour, marker) in STYLES.items()
        if name in drawn
    ]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(handles=legend, ncols=4, frameon=False, fontsize=8.5, handletextpad=0.2, columnspacing=1.2, **place)


def _speed(m: Measurement, variant: str) -> float:
    ratio = m.ratio(variant, m.reference)
    return ratio if m.rate else 1 / ratio


def _called(m: Measurement) -> str:
    """Return the name of a row, with the figures that the title tells."""
    figures = re.findall(r"\d[\d,]*", m.title)
    return ROWS[m.name].format(*figures, "", "")


def reading(axes: Axes, by_name: Mapping[str, Measurement]) -> None:
    _curves(axes, "Reading the progress of one workflow", "ms, by tasks of the workflow", _sized(by_name["read"]))


def growth(axes: Axes, by_name: Mapping[str, Measurement]) -> None:
    said = "µs of processor time, by tasks of the workflow"
    _curves(axes, "Completing one task", said, _sized(by_name["growth"]))


def statements(axes: Axes, by_name: Mapping[str, Measurement]) -> None:
    said = "µs a task, by tasks of the statement"
    _curves(axes, "Completing tasks in one statement", said, _sized(by_name["growth-bulk"]))


def hot(axes: Axes, by_name: Mapping[str, Measurement]) -> None:
    lines: Lines = {}
    for clients, m in hot_runs(by_name):
        for variant, samples in m.samples.items():
            if samples:
                lines.setdefault(variant, []).append((clients, m.value(variant)))
    _curves(axes, "Completing tasks of one hot workflow", "per second, by number of clients", lines, linear=True)


def hot_runs(by_name: Mapping[str, Measurement]) -> list[tuple[int, Measurement]]:
    return sorted((int(name[4:]), m) for name, m in by_name.items() if re.fullmatch(r"hot-\d+", name))


def _sized(m: Measurement) -> Lines:
    """Return the lines of a measurement whose variants are called "way, 1,000 tasks"."""
    lines: Lines = {}
    for variant, samples in m.samples.items():
        way, _, tasks = variant.removesuffix(" tasks").partition(", ")
        value = min(samples) if m.steady else median(samples)
        lines.setdefault(way, []).append((float(tasks.replace(",", "")), value))
    return lines


def _curves(axes: Axes, title: str, said: str, lines: Lines, *, linear: bool = False) -> None:
    """Draw curves over sizes, both axes logarithmic, or only the one below; each is named at its end."""
    ends = []
    for variant, (colour, marker) in STYLES.items():
        if variant in lines:
            bold = variant == "ours"
            x, y = zip(*sorted(lines[variant]), strict=True)
            width, size = (2.6, 7) if bold else (1.5, 6)
            axes.plot(x, y, color=colour, marker=marker, linewidth=width, markersize=size, markeredgecolor=GROUND)
            ends.append((y[-1], variant, colour, bold))
    axes.set_xscale("log")
    if linear:
        axes.set_ylim(0, 1.06 * max(y for line in lines.values() for _, y in line))
    else:
        axes.set_yscale("log")
        low, high = axes.get_ylim()
        axes.set_ylim(low / 1.3, high * 1.3)
    xs = sorted({x for line in lines.values() for x, _ in line})
    axes.set_xticks(xs, [_short(x) for x in xs])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_title(title, loc="left", fontsize=11, **BOLD, pad=20)
    axes.annotate(said, (0, 1), (0, 6), xycoords="axes fraction", textcoords="offset points", **SMALL)
    _name_ends(axes, ends)


def _name_ends(axes: Axes, ends: list[tuple[float, str, str, bool]]) -> None:
    """Write the name of each curve at the height of its end, moved apart where they would cover each other."""
    step = 0.085
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = sorted(ends)
    places: list[float] = []
    for y, *_ in ends:
        places.append(max(float(to_axes.transform((1, y))[1]), places[-1] + step if places else 0.0))
    highest = 1.0
    for number in reversed(range(len(places))):
        places[number] = min(places[number], highest)
        highest = places[number] - step
    for place, (_, variant, colour, bold) in zip(places, ends, strict=True):
        name = variant.split(" (")[0].replace("application, ", "")
        weight = BOLD if bold else {}
        axes.text(1.03, place, name, transform=axes.transAxes, va="center", fontsize=8.5, color=colour, **weight)


def _short(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g} M"
    return f"{value / 1e3:g} k" if value >= 1e3 else f"{value:g}"
