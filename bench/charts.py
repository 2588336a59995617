"""The charts, as SVG: one message each."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from bench.analysis import CEILINGS, Results
from bench.records import CellKey
from bench.roster import SERVICE

OURS, OTHERS, DATABASE, LINE = "#c2410c", "#94a3b8", "#336791", "#334155"

STYLE: Any = {  # its type in matplotlib lists all settings that there are
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titlepad": 14,
    "svg.fonttype": "path",
    "svg.hashsalt": "bareline",
    "figure.facecolor": "white",
}


class LineEnd(NamedTuple):
    """Where a line ends, in the chart's own units, and whose it is."""

    x: float
    y: float
    name: str


Points = list[tuple[float, float]]
"""The points of a line, in the chart's own units, from left to right."""


def draw(results: Results, folder: Path) -> None:
    """Write each chart that there are figures for, as `point-reads.svg` and so on."""
    charts: dict[str, Callable[[Results], Figure | None]] = {
        "point-reads": draw_point_reads,
        "cpu": draw_cpu,
        "latency": draw_latency,
        "rows": draw_rows,
        "connections": draw_connections,
    }
    with pyplot.rc_context(STYLE):
        for name, make in charts.items():
            if figure := make(results):
                figure.savefig(folder / f"{name}.svg", bbox_inches="tight", metadata={"Date": None})
                pyplot.close(figure)


def peers_of(results: Results, cell: CellKey) -> list[str]:
    """Return the peers with figures in a cell, the slowest first, as bars grow upwards."""
    return [n for n in reversed(results.names(cell)) if n not in CEILINGS and results.valid(n, cell)]


def color(name: str) -> str:
    """Return the colour of a peer: the service stands out."""
    return OURS if name.startswith(SERVICE) else OTHERS


def thousands(axis: Axis) -> None:
    """Write numbers as 1,000 and so on."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def place(results: Results) -> str:
    """Return when and where it was measured."""
    where = results.environment
    return f"{where.date}, {where.cores} cores shared with client and PostgreSQL"


def sign(axes: Axes, results: Results) -> None:
    """Write the place under a chart, in small letters."""
    axes.annotate(
        place(results), (0, 0), (0, -38), "axes fraction", textcoords="offset points", fontsize=8, color=LINE
    )


def draw_point_reads(results: Results) -> Figure | None:
    """Draw bars of rates; ceilings are lines."""
    cell = CellKey("point", results.main_rows, 64)
    names = peers_of(results, cell)
    if not names:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 0.42 * len(names) + 1.6))
    rates = [results.median(name, cell, "rate") or 0 for name in names]
    axes.barh([results.title(n) for n in names], rates, color=[color(n) for n in names], height=0.7)
    for index, value in enumerate(rates):
        axes.annotate(f"{value:,.0f}", (value, index), (4, 0), textcoords="offset points", va="center")
    for name, text in (("constant", "uvicorn alone"), ("pgbench_best", "PostgreSQL alone")):
        if ceiling := results.median(name, cell, "rate"):
            axes.axvline(ceiling, color=LINE, linestyle=(0, (4, 3)), linewidth=1)
            label = f"{text}\n{ceiling:,.0f} "
            axes.annotate(
                label, (ceiling, 0), (-4, 0), textcoords="offset points", ha="right", va="center", fontsize=8
            )
    axes.set_title(f"Users read by id, per second ({cell.rows:,} rows, 64 connections, one worker)")
    thousands(axes.xaxis)
    axes.tick_params(axis="y", length=0)
    sign(axes, results)
    return figure


def draw_cpu(results: Results) -> Figure | None:
    """Draw stacked bars: µs of the service and of PostgreSQL for one point read."""
    cell = CellKey("point", results.main_rows, 64)
    names = peers_of(results, cell)
    if not names:
        return None
    figure, axes = pyplot.subplots(figsize=(8, 0.42 * len(names) + 1.6))
    titles = [results.title(name) for name in names]
    service = [results.median(name, cell, "cpu_service") or 0 for name in names]
    postgres = [results.median(name, cell, "cpu_postgres") or 0 for name in names]
    axes.barh(titles, service, color=[color(name) for name in names], height=0.7)
    axes.barh(titles, postgres, left=service, color=DATABASE, height=0.7, label="PostgreSQL")
    for index, (ours, theirs) in enumerate(zip(service, postgres, strict=True)):
        axes.annotate(
            f"{ours:,.0f} + {theirs:,.0f}",
            (ours + theirs, index),
            (4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.set_title("CPU time of one point read in µs: the service's and PostgreSQL's")
    axes.legend(frameon=False, loc="upper right")
    thousands(axes.xaxis)
    axes.tick_params(axis="y", length=0)
    sign(axes, results)
    return figure


def draw_lines(
    results: Results, names: Sequence[str], points: Callable[[str], Points]
) -> tuple[Figure, Axes, list[LineEnd]]:
    """Draw a line for each name, the service's in front; return also where the lines end."""
    figure, axes = pyplot.subplots(figsize=(8, 5))
    ends: list[LineEnd] = []
    for name in names:
        if found := points(name):
            ours = name.startswith(SERVICE)
            axes.plot(
                *zip(*found, strict=True), color=color(name), marker="o", markersize=4,
                linewidth=2.5 if ours else 1.4, zorder=3 if ours else 2,
            )  # fmt: skip
            ends.append(LineEnd(*found[-1], name))
    axes.grid(axis="y", color="#e2e8f0")
    return figure, axes, ends


def label(axes: Axes, results: Results, ends: list[LineEnd]) -> None:
    """Write names at the lines' ends, pushed upwards where they would lie on each other."""
    placed: list[tuple[float, float]] = []
    for x, y, name in sorted(ends, key=lambda end: end.y):
        across, height = axes.transData.transform((x, y))
        moved = height
        while any(abs(across - other) < 130 and abs(moved - at) < 13 for other, at in placed):
            moved += 1
        placed.append((across, moved))
        axes.annotate(
            results.title(name), (x, y), (8, (moved - height) * 72 / axes.figure.dpi),
            textcoords="offset points", va="center", fontsize=8,
            color=OURS if name.startswith(SERVICE) else LINE,
        )  # fmt: skip


def draw_latency(results: Results) -> Figure | None:
    """Draw p99 against the rate, from the scheduled moment."""
    cells = [cell for cell in results.cells() if cell.share is not None]
    if not cells:
        return None

    def points(name: str) -> Points:
        pairs = [(results.median(name, c, "offered"), results.median(name, c, "p99")) for c in cells]
        return sorted((x, y) for x, y in pairs if x and y)

    figure, axes, ends = draw_lines(results, peers_of(results, cells[0]), points)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_title("99th percentile of latency against the rate of point reads")
    axes.set_ylabel("ms from the moment a request was due")
    axes.set_xlabel("requests per second")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_minor_formatter(NullFormatter())
        thousands(axis)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.7)
    label(axes, results, ends)
    return figure


def draw_rows(results: Results) -> Figure | None:
    """Draw rates against rows."""
    key = ("point", 64, None)
    cells = [cell for cell in results.cells() if (cell.work, cell.connections, cell.share) == key]
    if len(cells) < 2:
        return None
    title = "Point reads per second as the table grows"
    return draw_rates(results, cells, lambda cell: cell.rows, title, "rows")


def draw_connections(results: Results) -> Figure | None:
    """Draw rates against connections."""
    key = ("point", results.main_rows, None)
    cells = [cell for cell in results.cells() if (cell.work, cell.rows, cell.share) == key]
    if len(cells) < 2:
        return None
    title = "Point reads per second against connections"
    return draw_rates(results, cells, lambda cell: cell.connections, title, "connections")


def draw_rates(
    results: Results, cells: Sequence[CellKey], place_of: Callable[[CellKey], int], title: str, axis: str
) -> Figure:
    """Draw rates against something that grows in powers: `place_of` tells how much a cell has of it."""

    def points(name: str) -> Points:
        pairs = [(float(place_of(cell)), results.median(name, cell, "rate")) for cell in cells]
        return sorted((x, y) for x, y in pairs if y)

    figure, axes, ends = draw_lines(results, peers_of(results, cells[-1]), points)
    axes.set_xscale("log")
    axes.set_xticks(sorted({float(place_of(cell)) for cell in cells}))
    axes.minorticks_off()
    thousands(axes.xaxis)
    thousands(axes.yaxis)
    axes.set_ylim(bottom=0)
    axes.set_title(title)
    axes.set_xlabel(axis)
    label(axes, results, ends)
    return figure
