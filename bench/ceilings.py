"""What no service can pass: PostgreSQL alone, by pgbench and COPY, with the service's own SQL."""

import random
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from bench.database import Cluster, Table
from bench.postgres import USER, program
from bench.processes import CHECKOUT, run
from bench.records import Outcome
from bench.work import KINDS, LOOKUP, PAGE, WorkError

IDS_FILES = 20

COLUMNS = "id, email, display_name, is_active, created_at"
IMPORTED = 100_000


def point(table: Table) -> str:
    """Return a script of the service's get_user."""
    return f"\\set id random(1, {table.rows})\n" + statement("get_user", id=":id", with_profile="false")


def page(table: Table) -> str:
    """Return a script of the service's list_users_by_id, a page from anywhere."""
    values = {"pages.id": "array[:after]", "pages.size": f"array[{PAGE + 1}]"}
    last = max(1, table.rows - PAGE)
    return f"\\set after random(0, {last})\n" + statement("list_users_by_id", **values)


def patch(table: Table) -> str:
    """Return a script of the service's update_user, of the name alone."""
    values = {"id": ":id", "change.display_name": ":name::text", "set_display_name": "true"}
    sets = f"\\set id random(1, {table.rows})\n\\set name random(10000000, 99999999)\n"
    return sets + statement("update_user", **values)


def create(table: Table) -> str:
    """Return a script of the service's create_user."""
    email = ":email || '@example.com'"
    values = {"new.email": email, "hashed_password": "'none'", "new.display_name": "'Bench'"}
    return "\\set email random(1, 1000000000000000000)\n" + statement("create_user", **values)


SCRIPTS: dict[str, Callable[[Table], str]] = {"point": point, "page": page, "patch": patch, "create": create}


PARAMETER = re.compile(r"(?<!:):([a-z_][\w.]*)")
"""A named parameter, such as `:id` or `:pages.id`, and not a cast."""


def statement(name: str, **values: str) -> str:
    """Return the service's query with these expressions for its parameters, and null for all others."""
    return PARAMETER.sub(lambda found: values.get(found[1], "null"), read_queries()[name]) + ";\n"


SNIPPET = re.compile(r"\{((?:\w+\.)?\w+)\}")
"""A snippet's name in a statement: `{row}`, or `{users.row}` out of queries/users.sql."""


@cache
def read_queries() -> Mapping[str, str]:
    """Return the SQL of each query in queries/*.sql by its name, without comments and semicolon.

    The files hold one statement below each header `-- name: get_user :one`, and parts of statements below
    `-- snippet: row`.
    """
    blocks: dict[str, dict[str, str]] = {"name": {}, "snippet": {}}
    for path in sorted((CHECKOUT / "queries").glob("*.sql")):
        parts = re.split(r"(?m)^-- (name|snippet): (\w+).*$", path.read_text())
        for kind, name, part in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            body = re.sub(r"(?m)^--.*$", "", part).partition(";")[0].strip()
            full = SNIPPET.sub(rf"{{{path.stem}.\1}}", body)
            known = re.sub(r"\{\w+\.(\w+\.\w+)\}", r"{\1}", full)
            blocks[kind][name if kind == "name" else f"{path.stem}.{name}"] = known
    return {name: expand(body, blocks["snippet"]) for name, body in blocks["name"].items()}


def expand(body: str, snippets: Mapping[str, str]) -> str:
    """Return a statement with its snippets put in, and theirs."""
    while SNIPPET.search(body):
        body = SNIPPET.sub(lambda found: snippets[found[1]], body)
    return body


class Pgbench:
    """Runs a work's statements as prepared ones, straight on the socket."""

    def __init__(self, cluster: Cluster, table: Table, folder: Path) -> None:
        self._cluster, self._table, self._folder = cluster, table, folder

    def can(self, work: str) -> bool:
        """Return whether the work is SQL alone."""
        return all(kind in SCRIPTS or kind == "lookup" for kind in KINDS.get(work, ["none"]))

    def measure(self, work: str, clients: int, seconds: float) -> Outcome:
        """Run a work with so many clients; requests are runs of a script. Raises WorkError."""
        before = self._cluster.cpu()
        command = [program("pgbench"), "-M", "prepared", "-n", "-c", str(clients), "-j", "1"]
        command += ["-T", str(max(1, round(seconds))), *self._scripts(work)]
        command += ["-h", self._table.folder(), "-U", USER, f"bench_{self._table.rows}"]
        try:
            code, said = run(command, seconds + 60)
        except subprocess.TimeoutExpired:
            raise WorkError("pgbench did not end") from None
        self._cluster.wait_for_exits()
        done, rate = read_figure("actually processed: ", said), read_figure("tps = ", said)
        if code or not done or rate is None:
            raise WorkError(f"pgbench: {said.strip()[-300:]}")
        return Outcome(
            void=None,
            clients=clients,
            requests=int(done),
            rate=rate,
            mean_ms=read_figure("latency average = ", said),
            cpu_postgres=(self._cluster.cpu() - before) / done * 1e6,
        )

    def best_clients(self, work: str, counts: Sequence[int]) -> tuple[int, dict[int, float]]:
        """Return which number of clients has the highest rate, and the rate of each. Raises WorkError."""
        rates = {clients: self.measure(work, clients, 1).rate or 0.0 for clients in counts}
        return max(rates, key=lambda clients: rates[clients]), rates

    def _scripts(self, work: str) -> list[str]:
        kinds = KINDS[work]
        if work == "lookup":
            return self._lookup_scripts()
        arguments = []
        for kind in sorted(set(kinds)):
            path = self._folder / f"{kind}-{self._table.rows}.sql"
            path.write_text(SCRIPTS[kind](self._table))
            arguments += ["-f", f"{path}@{kinds.count(kind)}"]
        return arguments

    def _lookup_scripts(self) -> list[str]:
        """Return arguments for some sets of ids, a script for each: pgbench has no arrays."""
        chance, arguments = random.Random(1), []
        for number in range(IDS_FILES):
            ids = ",".join(str(chance.randint(1, self._table.rows)) for _ in range(LOOKUP))
            path = self._folder / f"lookup-{number}.sql"
            path.write_text(statement("look_up_users_by_id", ids=f":ids{number}"))
            arguments += ["-D", f"ids{number}={{{ids}}}", "-f", str(path)]
        return arguments


def read_figure(name: str, said: str) -> float | None:
    """Return the number that pgbench prints after a name, None where it prints none."""
    found = re.search(re.escape(name) + r"([\d.]+)", said)
    return float(found[1]) if found else None


class Copy:
    """COPY by psql, out to /dev/null and in from a file."""

    def __init__(self, cluster: Cluster, table: Table, folder: Path) -> None:
        self._cluster, self._table, self._folder = cluster, table, folder

    def measure(self, work: str) -> Outcome:
        """Run one COPY; requests are rows. Raises WorkError."""
        what, rows = self._export() if work == "export" else self._import()
        command = [program("psql"), "-X", "-h", self._table.folder(), "-U", USER]
        command += ["-d", f"bench_{self._table.rows}", "-c", f"\\copy {what}"]
        before, started = self._cluster.cpu(), time.perf_counter()
        code, said = run(command, 600)
        seconds = time.perf_counter() - started
        if code or f"COPY {rows}" not in said:
            raise WorkError(f"COPY: {said.strip()[-300:]}")
        self._cluster.wait_for_exits()
        used = self._cluster.cpu() - before
        return Outcome(
            void=None, requests=rows, seconds=seconds, rate=rows / seconds, cpu_postgres=used / rows * 1e6
        )

    def _export(self) -> tuple[str, int]:
        """Return what to copy out, and how many rows these are."""
        return f"(select {COLUMNS} from users order by id) to '/dev/null'", self._table.rows

    def _import(self) -> tuple[str, int]:
        """Write a file of rows; return how to copy it in, and how many rows these are."""
        source = self._folder / "import.csv"
        source.write_text("".join(f"copy-{n}@example.com,none,Bench {n}\n" for n in range(IMPORTED)))
        return f"users (email, hashed_password, display_name) from '{source}' (format csv)", IMPORTED
