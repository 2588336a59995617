"""The report: Markdown from raw.json. `python -m bench.report RAW.JSON` writes it, and the charts, again."""

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import structs

from bench.analysis import CEILINGS, Results, median_of, read_results
from bench.records import NOT_OFFERED, CellKey, Environment, Figure, PeerRecord, Trips
from bench.roster import BASELINE, SERVICE
from bench.work import TITLES

BULK = ("export", "import")

PERCENTILES: tuple[tuple[str, Figure], ...] = (
    ("p50 ms", "p50"),
    ("p90 ms", "p90"),
    ("p99 ms", "p99"),
    ("p99.9 ms", "p99_9"),
)
FIXED_RATE_FIGURES: tuple[Figure, ...] = ("p50", "p99")


class Column(NamedTuple):
    """A column of a table: its title, and what it shows of a peer or a ceiling of that name."""

    title: str
    show: Callable[[str], str]


FULL = 0.97
"""The share of the machine's CPU time from which on it has no more."""


def write_report(results: Results) -> str:
    """Return the whole report as Markdown."""
    parts = [heading(results), summary(results), absent(results), *by_work(results), by_connections(results)]
    parts += [at_rates(results), by_rows(results), counted(results), voids(results), where(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(names: Sequence[str], columns: Sequence[Column], results: Results) -> str:
    """Return a Markdown table with a row for each name."""
    head = " | ".join(column.title for column in columns)
    lines = [f"| | {head} |", "|---|" + "---:|" * len(columns)]
    for name in names:
        title = f"**{results.title(name)}**" if name == SERVICE else results.title(name)
        cells = (column.show(name) for column in columns)
        lines.append(f"| {'*' + title + '*' if name in CEILINGS else title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def number(value: float | None, form: str = ",.0f", unit: str = "") -> str:
    """Return a figure as text, a dash for None."""
    return "–" if value is None else f"{value:{form}}{unit}"


def heading(results: Results) -> str:
    """Return what was measured, where and when."""
    place = results.environment
    note = " A quick run: figures are rough." if results.quick else ""
    return (
        f"# Benchmark of {place.date}\n\n`{place.command}` on {place.cpu}, {place.cores} cores, "
        f"{place.postgres}, Python {place.python}. Client, services and PostgreSQL share the machine."
        f"{note} What each figure means: bench/README.md."
    )


def summary(results: Results) -> str:
    """Return the table of point reads with 64 connections."""
    cell = CellKey("point", results.main_rows, 64)
    names = results.names(cell)
    if not names:
        return ""
    columns = [
        figure_column("req/s", results, cell, "rate"),
        Column("of pgbench", lambda name: number(results.share(name, cell), ".0%")),
        figure_column("p50 ms", results, cell, "p50", ".1f"),
        figure_column("p99 ms", results, cell, "p99", ".1f"),
        figure_column("CPU µs, service", results, cell, "cpu_service"),
        figure_column("CPU µs, PostgreSQL", results, cell, "cpu_postgres"),
        peer_column("SQL round trips", results, lambda peer: trips_of(peer).point, ".2f"),
        Column("MB resident", lambda name: number(per_million(results.median(name, cell, "memory")))),
        peer_column("lines", results, lambda peer: peer.lines),
    ]
    if BASELINE in names:
        columns.insert(1, ratio_column(results, BASELINE, cell))
    title = f"## Point reads, {cell.rows:,} rows, 64 connections"
    return f"{title}\n\n{table(names, columns, results)}\n\n{lines_note(results)}"


def lines_note(results: Results) -> str:
    """Return how many of the service's lines serve this contract."""
    service = results.peers.get(SERVICE)
    if not service or not service.lines_core:
        return ""
    return (
        "Medians over rounds; ratios are medians of the ratios within each round. "
        f"{results.title(SERVICE)}'s lines are all of svc/ and queries/, which do more than this contract; "
        f"{service.lines_core} of them (users.py, structs.py, rows.py, users.sql and their like) are what "
        "serves it."
    )


def figure_column(title: str, results: Results, cell: CellKey, figure: Figure, form: str = ",.0f") -> Column:
    """Return a column of medians."""
    return Column(title, lambda name: number(results.median(name, cell, figure), form))


def ratio_column(results: Results, other: str, cell: CellKey) -> Column:
    """Return a column of ratios to another's rate."""

    def show(name: str) -> str:
        return "–" if name in CEILINGS else number(results.ratio(name, other, cell), ".2f", "×")

    return Column(f"× {results.title(other)}", show)


def peer_column(
    title: str, results: Results, get: Callable[[PeerRecord], float | None], form: str = ",.0f"
) -> Column:
    """Return a column of what was counted of each peer; ceilings have a dash."""

    def show(name: str) -> str:
        peer = results.peers.get(name)
        return number(get(peer) if peer else None, form)

    return Column(title, show)


def trips_of(peer: PeerRecord) -> Trips:
    """Return a peer's round trips, none where it was not measured."""
    return peer.trips or Trips()


def per_million(value: float | None) -> float | None:
    """Return bytes as megabytes."""
    return None if value is None else value / 1e6


def absent(results: Results) -> str:
    """Return who was not measured, and why."""
    lines = [
        f"- {peer.title}: {peer.state}. " + "; ".join(peer.reasons)
        for peer in results.peers.values()
        if peer.state != "measured"
    ]
    return "## Not measured\n\n" + "\n".join(lines) if lines else ""


def by_work(results: Results) -> Iterator[str]:
    """Return a table for each kind of work on the main number of rows."""
    for cell in results.cells():
        if cell.rows != results.main_rows or cell.share is not None:
            continue
        if cell.connections == 64 or (cell.connections == 1 and cell.work in BULK):
            yield f"## {TITLES[cell.work].capitalize()}, {cell.rows:,} rows\n\n" + work_table(results, cell)


def work_table(results: Results, cell: CellKey) -> str:
    """Return a table of the rates, ratios, latencies and CPU times of one kind of work."""

    def show_rate(name: str) -> str:
        return number(results.median(name, cell, "rate")) if results.valid(name, cell) else "void"

    def show_spread(name: str) -> str:
        spread = results.spread(name, cell)
        return f"{spread[0]:,.0f}–{spread[1]:,.0f}" if spread else "–"

    columns = [Column("per s", show_rate), Column("spread", show_spread)]
    others = [name for name in (SERVICE, BASELINE) if name in results.names(cell)]
    columns += [ratio_column(results, other, cell) for other in others]
    columns.append(Column("of ceiling", lambda name: number(results.share(name, cell), ".0%")))
    columns += cost_columns(results, cell)
    names = [name for name in results.names(cell) if not lacks(results, name, cell)]
    return table(names, columns, results)


def cost_columns(results: Results, cell: CellKey) -> list[Column]:
    """Return columns of latencies and CPU times; a row of an export has no latency, and takes under 1 µs."""
    bulk = cell.work in BULK
    latencies = [figure_column(title, results, cell, figure, ".1f") for title, figure in PERCENTILES]
    form = ".2f" if bulk else ",.0f"
    return [
        *([] if bulk else latencies),
        figure_column("CPU µs, service", results, cell, "cpu_service", form),
        figure_column("CPU µs, PostgreSQL", results, cell, "cpu_postgres", form),
    ]


def lacks(results: Results, name: str, cell: CellKey) -> bool:
    """Return whether the peer has no such route, which is no failure."""
    return any(run.void == NOT_OFFERED for run in results.of(cell) if run.peer == name)


def by_connections(results: Results) -> str:
    """Return tables of rates against connections."""
    parts = []
    for work in dict.fromkeys(cell.work for cell in results.cells()):
        cells = [
            cell
            for cell in results.cells()
            if (cell.work, cell.rows) == (work, results.main_rows) and cell.share is None
        ]
        cells.sort(key=lambda cell: cell.connections)
        if len(cells) > 1:
            columns = [figure_column(f"{cell.connections}", results, cell, "rate") for cell in cells]
            parts.append(rate_table(results, cells[-1], columns))
    return "## Against connections\n\n" + "\n\n".join(parts) if parts else ""


def rate_table(results: Results, cell: CellKey, columns: Sequence[Column]) -> str:
    """Return a table of rates under the title of a cell's work, in the order of that cell."""
    return f"### {TITLES[cell.work].capitalize()}, per s\n\n{table(results.names(cell), columns, results)}"


def at_rates(results: Results) -> str:
    """Return the table of latencies at fixed rates."""
    cells = [cell for cell in results.cells() if cell.share is not None]
    if not cells:
        return ""
    columns = [fixed_rate_column(results, cell, figure) for cell in cells for figure in FIXED_RATE_FIGURES]
    return (
        "## At a fixed rate, a share of each peer's own closed-loop rate\n\n"
        + table(results.names(cells[0]), columns, results)
        + "\n\nPoint reads; latency counts from the moment a request was due. † the generator itself was "
        "late, by more than 1 ms and a tenth of the latency at p99: an upper bound. ‡ all cores were busy, "
        "with the generator too, which takes more than wrk: there the queue is the machine's."
    )


def fixed_rate_column(results: Results, cell: CellKey, figure: Figure) -> Column:
    """Return a column of latencies at a fixed rate, with marks where they are not the server's alone."""

    def show(name: str) -> str:
        runs = results.valid(name, cell)
        marks = " †" * any(run.limited_by_generator for run in runs)
        marks += " ‡" * any((run.machine_busy or 0) >= FULL for run in runs)
        return number(results.median(name, cell, figure), ".1f") + marks

    return Column(f"{figure} ms at {cell.share:.0%}", show)


def by_rows(results: Results) -> str:
    """Return tables of rates against rows."""
    parts = []
    for work in dict.fromkeys(cell.work for cell in results.cells()):
        key = (work, 64, None)
        cells = [cell for cell in results.cells() if (cell.work, cell.connections, cell.share) == key]
        if len(cells) > 1:
            columns = [figure_column(f"{cell.rows:,} rows", results, cell, "rate") for cell in cells]
            parts.append(rate_table(results, cells[0], columns))
    note = (
        "Each size was measured for itself, minutes after the one before it, and machines drift: hold it "
        "against the ceilings in its column."
    )
    return "## Against rows, 64 connections\n\n" + "\n\n".join([note, *parts]) if parts else ""


def counted(results: Results) -> str:
    """Return the table of what was counted rather than measured."""
    names = [name for name, peer in results.peers.items() if peer.trips]
    if not names:
        return ""
    columns = [
        peer_column("s to start", results, lambda peer: median_of(peer.starts), ".2f"),
        peer_column("lines", results, lambda peer: peer.lines),
        peer_column("packages", results, lambda peer: peer.packages),
        peer_column("MB installed", results, lambda peer: peer.megabytes, ".1f"),
        peer_column("trips: point", results, lambda peer: trips_of(peer).point, ".2f"),
        peer_column("trips: point, 64", results, lambda peer: trips_of(peer).point_64, ".2f"),
        peer_column("trips: page", results, lambda peer: trips_of(peer).page, ".2f"),
        peer_column("trips: lookup", results, lambda peer: trips_of(peer).lookup, ".2f"),
        peer_column("trips: patch", results, lambda peer: trips_of(peer).patch, ".2f"),
        peer_column("trips: create", results, lambda peer: trips_of(peer).create, ".2f"),
        peer_column("trips: idle", results, lambda peer: trips_of(peer).idle, ".2f"),
    ]
    return (
        "## Counted\n\n"
        + table(names, columns, results)
        + "\n\nTrips are SQL round trips a request, counted by a proxy; `idle` is how many there are in a "
        "second without any request (counted in full runs)."
    )


def voids(results: Results) -> str:
    """Return the runs that do not count, each with its reason."""
    lines = [
        f"- {results.title(run.peer)}, {run.work}, {run.rows:,} rows, "
        f"{run.connections} connections, round {run.round}, attempt {run.attempt}: "
        + " ".join(run.void.split())
        for run in results.runs
        if run.void and run.void != NOT_OFFERED
    ]
    return "## Void runs\n\n" + "\n".join(lines) if lines else ""


def where(results: Results) -> str:
    """Return the environment, and how much CPU idle processes took."""
    busy = [
        f"{results.peers[name].title if name in results.peers else name} {share:.0%}"
        for found in results.idle_cpu.values()
        for name, share in found.items()
        if share > 0.005
    ]
    lines = describe_environment(results.environment)
    lines.append("- CPU of one core that idle processes take: " + (", ".join(busy) or "none"))
    return "## Environment\n\n" + "\n".join(lines)


def describe_environment(place: Environment) -> list[str]:
    """Return a line for each thing that is known of the place, the versions of packages last."""
    known = {name: value for name, value in structs.asdict(place).items() if value and name != "packages"}
    packages = ", ".join(f"{name} {version}" for name, version in place.packages.items())
    return [*(f"- {name}: {value}" for name, value in known.items()), f"- packages: {packages}"]


def main() -> None:
    """Write report and charts of a raw.json, beside it."""
    from bench.charts import draw

    path = Path(sys.argv[1])
    results = read_results(path)
    path.with_name("report.md").write_text(write_report(results))
    draw(results, path.parent)


if __name__ == "__main__":
    main()
