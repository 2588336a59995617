"""The report: Markdown from raw.json. `python -m bench.report RAW.JSON` writes it, and the charts, again."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.analysis import CEILINGS, Cell, Results
from bench.roster import BASELINE, SERVICE
from bench.work import TITLES

Column = tuple[str, Callable[[str], str]]

FULL = 0.97
"""The share of the machine's CPU time from which on it has no more."""


def write_report(raw: dict[str, Any]) -> str:
    """The whole report."""
    results = Results(raw)
    parts = [heading(results), summary(results), absent(results), *by_work(results), by_connections(results)]
    parts += [at_rates(results), by_rows(results), counted(results), voids(results), where(results)]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(names: Sequence[str], columns: Sequence[Column], results: Results) -> str:
    """A Markdown table with a row for each name."""
    lines = ["| | " + " | ".join(title for title, _ in columns) + " |", "|---|" + "---:|" * len(columns)]
    for name in names:
        title = f"**{results.title(name)}**" if name == SERVICE else results.title(name)
        cells = (value(name) for _, value in columns)
        lines.append(f"| {'*' + title + '*' if name in CEILINGS else title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def number(value: float | None, form: str = ",.0f", unit: str = "") -> str:
    """A figure, or a dash."""
    return "–" if value is None else f"{value:{form}}{unit}"


def heading(results: Results) -> str:
    """What, where, when."""
    place = results.raw["environment"]
    note = " A quick run: figures are rough." if results.raw["quick"] else ""
    return (
        f"# Benchmark of {place['date']}\n\n`{place['command']}` on {place['cpu']}, {place['cores']} cores, "
        f"{place['postgres']}, Python {place['python']}. Client, services and PostgreSQL share the machine."
        f"{note} What each figure means: bench/README.md."
    )


def summary(results: Results) -> str:
    """Point reads with 64 connections."""
    cell: Cell = ("point", results.main_rows, 64, None)
    names = results.names(cell)
    if not names:
        return ""

    def peer(name: str) -> dict[str, Any]:
        return results.peers.get(name, {})

    columns: list[Column] = [
        ("req/s", lambda n: number(results.median(n, cell, "rate"))),
        ("of pgbench", lambda n: number(results.share(n, cell), ".0%")),
        ("p50 ms", lambda n: number(results.median(n, cell, "p50"), ".1f")),
        ("p99 ms", lambda n: number(results.median(n, cell, "p99"), ".1f")),
        ("CPU µs, service", lambda n: number(results.median(n, cell, "cpu_service"))),
        ("CPU µs, PostgreSQL", lambda n: number(results.median(n, cell, "cpu_postgres"))),
        ("SQL round trips", lambda n: number(peer(n).get("trips", {}).get("point"), ".2f")),
        ("MB resident", lambda n: number(per_million(results.median(n, cell, "memory")))),
        ("lines", lambda n: number(peer(n).get("lines"))),
    ]
    if BASELINE in names:
        columns.insert(1, (f"× {results.title(BASELINE)}", times(results, BASELINE, cell)))
    title = f"## Point reads, {cell[1]:,} rows, 64 connections"
    return f"{title}\n\n{table(names, columns, results)}\n\n{lines_note(results)}"


def lines_note(results: Results) -> str:
    """The service's lines are those of all it does; the ones for this contract are told apart."""
    core = results.peers.get(SERVICE, {}).get("lines_core")
    if not core:
        return ""
    return (
        "Medians over rounds; ratios are medians of the ratios within each round. "
        f"{results.title(SERVICE)}'s lines are all of svc/ and queries/, which do more than this contract; "
        f"{core} of them (users.py, structs.py, rows.py, users.sql and their like) are what serves it."
    )


def times(results: Results, other: str, cell: Cell) -> Callable[[str], str]:
    """A column of ratios to another."""
    return lambda name: "–" if name in CEILINGS else number(results.ratio(name, other, cell), ".2f", "×")


def per_million(value: float | None) -> float | None:
    """Bytes as megabytes."""
    return None if value is None else value / 1e6


def absent(results: Results) -> str:
    """Who was not measured, and why."""
    lines = [
        f"- {found['title']}: {found['state']}. " + "; ".join(found["reasons"])
        for found in results.peers.values()
        if found["state"] != "measured"
    ]
    return "## Not measured\n\n" + "\n".join(lines) if lines else ""


def by_work(results: Results) -> Iterator[str]:
    """A table for each kind of work in the main table."""
    for cell in results.cells():
        work, rows, connections, share = cell
        if rows != results.main_rows or share is not None or connections not in (1, 64):
            continue
        if connections == 64 or work in ("export", "import"):
            yield f"## {TITLES[work].capitalize()}, {rows:,} rows\n\n" + work_table(results, cell)


def work_table(results: Results, cell: Cell) -> str:
    """Rates, ratios, latencies and CPU time of one kind of work."""

    def rates(name: str) -> str:
        spread = results.spread(name, cell)
        return f"{spread[0]:,.0f}–{spread[1]:,.0f}" if spread else "–"

    columns: list[Column] = [
        ("per s", lambda n: number(results.median(n, cell, "rate")) if results.valid(n, cell) else "void"),
        ("spread", rates),
    ]
    others = [name for name in (SERVICE, BASELINE) if name in results.names(cell)]
    columns += [(f"× {results.title(other)}", times(results, other, cell)) for other in others]
    columns.append(("of ceiling", lambda n: number(results.share(n, cell), ".0%")))
    if cell[0] not in ("export", "import"):
        columns += [(f"{p} ms", latency(results, cell, p)) for p in ("p50", "p90", "p99", "p99.9")]
    for title, figure in (("CPU µs, service", "cpu_service"), ("CPU µs, PostgreSQL", "cpu_postgres")):
        columns.append((title, cpu(results, cell, figure)))
    names = [name for name in results.names(cell) if not lacks(results, name, cell)]
    return table(names, columns, results)


def lacks(results: Results, name: str, cell: Cell) -> bool:
    """Whether the peer has no such thing, which is no failure."""
    return any(run["void"] == "not offered" for run in results.of(cell) if run["peer"] == name)


def latency(results: Results, cell: Cell, figure: str) -> Callable[[str], str]:
    """A column of latencies."""
    return lambda name: number(results.median(name, cell, figure), ".1f")


def cpu(results: Results, cell: Cell, figure: str) -> Callable[[str], str]:
    """A column of CPU times; a row of an export takes less than one µs."""
    form = ".2f" if cell[0] in ("export", "import") else ",.0f"
    return lambda name: number(results.median(name, cell, figure), form)


def by_connections(results: Results) -> str:
    """Rates against connections."""
    parts = []
    for work in dict.fromkeys(cell[0] for cell in results.cells()):
        cells = [c for c in results.cells() if c[:2] == (work, results.main_rows) and c[3] is None]
        cells.sort(key=lambda cell: cell[2])
        if len(cells) > 1:
            columns = [(f"{cell[2]}", rate(results, cell)) for cell in cells]
            names = results.names(cells[-1])
            parts.append(f"### {TITLES[work].capitalize()}, per s\n\n{table(names, columns, results)}")
    return "## Against connections\n\n" + "\n\n".join(parts) if parts else ""


def rate(results: Results, cell: Cell) -> Callable[[str], str]:
    """A column of rates."""
    return lambda name: number(results.median(name, cell, "rate"))


def at_rates(results: Results) -> str:
    """Latencies at fixed rates."""
    cells = [cell for cell in results.cells() if cell[3] is not None]
    if not cells:
        return ""

    def value(cell: Cell, figure: str) -> Callable[[str], str]:
        def show(name: str) -> str:
            runs = results.valid(name, cell)
            marks = " †" * any(run.get("limited_by_generator") for run in runs)
            marks += " ‡" * any(run.get("machine_busy", 0) >= FULL for run in runs)
            return number(results.median(name, cell, figure), ".1f") + marks

        return show

    columns = [
        (f"{figure} ms at {cell[3]:.0%}", value(cell, figure)) for cell in cells for figure in ("p50", "p99")
    ]
    return (
        "## At a fixed rate, a share of each peer's own closed-loop rate\n\n"
        + table(results.names(cells[0]), columns, results)
        + "\n\nPoint reads; latency counts from the moment a request was due. † the generator itself was "
        "late, by more than 1 ms and a tenth of the latency at p99: an upper bound. ‡ all cores were busy, "
        "with the generator too, which takes more than wrk: there the queue is the machine's."
    )


def by_rows(results: Results) -> str:
    """Rates against rows."""
    parts = []
    for work in dict.fromkeys(cell[0] for cell in results.cells()):
        cells = [cell for cell in results.cells() if cell[0] == work and cell[2:] == (64, None)]
        if len(cells) > 1:
            columns = [(f"{cell[1]:,} rows", rate(results, cell)) for cell in cells]
            names = results.names(cells[0])
            parts.append(f"### {TITLES[work].capitalize()}, per s\n\n{table(names, columns, results)}")
    note = (
        "Each size was measured for itself, minutes after the one before it, and machines drift: hold it "
        "against the ceilings in its column."
    )
    return "## Against rows, 64 connections\n\n" + "\n\n".join([note, *parts]) if parts else ""


def counted(results: Results) -> str:
    """What was counted rather than measured."""
    names = [name for name, found in results.peers.items() if "trips" in found]
    if not names:
        return ""

    def of(key: str, form: str = ",.0f") -> Callable[[str], str]:
        return lambda name: number(results.peers[name].get(key), form)

    def trips(work: str) -> Callable[[str], str]:
        return lambda name: number(results.peers[name]["trips"].get(work), ".2f")

    columns: list[Column] = [
        ("s to start", lambda name: number(median(results.peers[name]["starts"]), ".2f")),
        ("lines", of("lines")),
        ("packages", of("packages")),
        ("MB installed", of("megabytes", ".1f")),
    ]
    works = ("point", "point_64", "page", "lookup", "patch", "create", "idle")
    columns += [(f"trips: {work.replace('_', ', ')}", trips(work)) for work in works]
    return (
        "## Counted\n\n"
        + table(names, columns, results)
        + "\n\nTrips are SQL round trips a request, counted by a proxy; `idle` is how many there are in a "
        "second without any request (counted in full runs)."
    )


def voids(results: Results) -> str:
    """Runs that do not count, with the reason."""
    lines = [
        f"- {results.title(run['peer'])}, {run['work']}, {run['rows']:,} rows, "
        f"{run['connections']} connections, round {run['round']}, attempt {run['attempt']}: "
        + " ".join(run["void"].split())
        for run in results.runs
        if run["void"] and run["void"] != "not offered"
    ]
    return "## Void runs\n\n" + "\n".join(lines) if lines else ""


def where(results: Results) -> str:
    """The environment."""
    place = results.raw["environment"]
    lines = [f"- {key}: {value}" for key, value in place.items() if value and key != "packages"]
    lines.append(
        "- packages: " + ", ".join(f"{name} {version}" for name, version in place["packages"].items())
    )
    busy = [
        f"{results.peers.get(name, {}).get('title', name)} {share:.0%}"
        for found in results.raw["idle_cpu"].values()
        for name, share in found.items()
        if share > 0.005
    ]
    lines.append("- CPU of one core that idle processes take: " + (", ".join(busy) or "none"))
    return "## Environment\n\n" + "\n".join(lines)


def main() -> None:
    """Report and charts from a raw.json, beside it."""
    from bench.charts import draw

    path = Path(sys.argv[1])
    raw = json.loads(path.read_text())
    path.with_name("report.md").write_text(write_report(raw))
    draw(raw, path.parent)


if __name__ == "__main__":
    main()
