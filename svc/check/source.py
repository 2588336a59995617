"""What the Python source itself promises: SQL in .sql files alone, one way to the driver, no loose ends."""

import ast
import re
from collections.abc import Iterator, Sequence, Set
from pathlib import Path

from svc.check.findings import Finding, describe_mismatch, find, name_file
from svc.check.usage import find_unused
from svc.config import CHECKOUT, find_folder
from svc.postgres.secret import Secret
from svc.postgres.snippets import TOKEN, Snippets, find_references, split_file
from svc.postgres.statements import Query, QueryError, load

DRIVER = {
    "postgres/connection.py": "opens connections and runs queries of the contract",
    "postgres/pool.py": "knows the driver's exceptions, as it lends connections",
    "postgres/errors.py": "translates the driver's exceptions",
    "migrations.py": "hands the migrations to yoyo, which runs them through psycopg",
    "check/prove.py": "prepares queries",
    "check/schema.py": "has statements analysed",
    "check/laboratory.py": "fills scratch tables",
    "check/trials.py": "runs queries on them",
    "check/growth.py": "explains queries on them",
    "check/rollout.py": "prepares another release's queries",
}
"""The only files that may import a driver, and why."""

SENDERS = tuple(
    f"check/{name}.py" for name in "scratch prove schema laboratory trials growth rollout command".split()
)
"""The files that send text of their own, to a scratch database; connection.py sends that of queries."""

GUARD = ("postgres/connection.py", "postgres/statements.py", *SENDERS)
"""The files that may name what the guard of connections is made of."""

UNGUARDED = frozenset(
    """QueryConnection ScratchConnection open_connection TEXTS force_setattr _protocol _execute _do_execute
    _get_statement __mro__ __base__ __bases__""".split()
)
"""Ways around the guard: kinds of connections without one, what it goes by, asyncpg's insides and classes."""

CHECK_CONNECTION = f"{__package__}.scratch"
"""The module that opens a connection without a guard."""

DRIVERS = frozenset(["asyncpg", "psycopg", "psycopg2", "yoyo"])

SENDING = frozenset(
    """execute executemany fetch fetchval fetchrow fetchmany prepare cursor copy_from_query copy_from_table
    copy_to_table copy_records_to_table""".split()
)
"""What a driver's connection is sent text with."""

GUARDED = ("self, find_text(query), *arguments", "self, find_text(query)", "*arguments", "query")
"""What may be sent in connection.py: the text of a query, or what is compared with asyncpg's own."""

SQL = re.compile(
    r"""(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(?:
        (?:select|explain|truncate)\b | insert\s+into\b | update\s+\S+\s+set\b | delete\s+from\b
      | with\s+(?:recursive\s+)?\w+\s*(?:\([^)]*\)\s*)?as\b
      | (?:create|alter|drop)\s+(?:or\s+replace\s+)?(?:unique\s+|temporary\s+)?
        (?:table|index|function|view|type|trigger|sequence|schema|database|role|extension)\b )""",
    re.IGNORECASE | re.VERBOSE | re.DOTALL,
)
STAR = re.compile(
    r"(?:\bselect\s+(?:all\s+|distinct\s+(?:on\s*\([^)]*\)\s*)?)?|\breturning\s+|,\s*|\.\s*)\*", re.IGNORECASE
)

SECRET, MANGLED = Secret.__module__, f"_{Secret.__name__}__"
"""The module of what is secret, and how the names of its insides begin."""

PACKAGE = Path(__file__).parent.parent


def check_source(queries: Sequence[Query], revealer: str = "") -> list[Finding]:
    """Find everything that the source shows, without a database; `revealer` is the module that may reveal."""
    found: list[Finding] = []
    modules: list[list[ast.AST]] = []
    names = {query.name for query in queries}
    for path in sorted(PACKAGE.rglob("*.py")):
        nodes = [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]
        modules.append(nodes)
        found += check_module(path, nodes)
        found += check_revealing(path, nodes, revealer)
        found += check_transactions(path, nodes, names)
    unused = find_unused(queries, modules)
    found += [find(query, "unused", "a call of the query", "none in svc/") for query in unused]
    found += [finding for query in queries for finding in find_stars(query)]
    return found + find_unbound(queries) + find_unused_snippets(find_folder("queries"))


def check_module(path: Path, nodes: Sequence[ast.AST]) -> list[Finding]:
    """Find a driver imported, text sent, a query made or SQL written where that must not be."""
    name = path.relative_to(PACKAGE).as_posix()
    called = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
    found: list[Finding] = []
    docs = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        expected = (
            check_import(node, name)
            or check_making(node, name)
            or check_sending(node, called.get(id(node)), name)
            or check_guard(node, name)
            or (None if id(node) in docs else check_text(node, name))
        )
        if expected:
            found.append(report(path, node, expected, ast.unparse(node)[:80]))
    return sorted(found, key=lambda finding: (finding.line, finding.column))


def check_revealing(path: Path, nodes: Sequence[ast.AST], revealer: str) -> Iterator[Finding]:
    """Find a secret's value on its way out of it, but in the one module that a resource names for that."""
    name = path.relative_to(PACKAGE.parent).with_suffix("").as_posix().replace("/", ".")
    if name in (SECRET, revealer):
        return
    expected = f"what is secret revealed in {revealer or 'no module'} alone"
    for node in nodes:
        revealing = set[str]()
        if isinstance(node, ast.ImportFrom):
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            revealing = names & {f"{SECRET}.reveal", f"{SECRET}.*", SECRET}
        elif isinstance(node, ast.Import):
            revealing = {alias.name for alias in node.names} & {SECRET}
        else:
            text = getattr(node, "attr", None) or getattr(node, "value", None)
            revealing |= {text} if isinstance(text, str) and (MANGLED in text or text == SECRET) else set()
        if revealing:
            yield report(path, node, expected, ast.unparse(node))


def check_transactions(path: Path, nodes: Sequence[ast.AST], names: Set[str]) -> Iterator[Finding]:
    """Find queries that run beside the transaction in whose block they stand: not by what it has bound."""
    for block in nodes:
        if not isinstance(block, ast.AsyncWith):
            continue
        targets = [item.optional_vars for item in block.items if is_transaction(item.context_expr)]
        bound = {
            node.id for target in targets if target for node in ast.walk(target) if isinstance(node, ast.Name)
        }
        for node in (node for statement in block.body for node in ast.walk(statement)) if targets else ():
            if (
                isinstance(node, ast.Attribute)
                and node.attr in names
                and ast.unparse(node.value) not in bound
            ):
                expected = f"a query of the transaction: {' or '.join(sorted(bound)) or 'nothing is bound'}"
                yield report(path, node, expected, ast.unparse(node))


def is_transaction(expression: ast.expr) -> bool:
    """Return whether an expression begins a transaction."""
    return isinstance(expression, ast.Call) and ast.unparse(expression.func).endswith(".transaction")


def check_import(node: ast.AST, name: str) -> str | None:
    """Return what was expected instead of a driver, in a file that is not on the list."""
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules = [node.module or ""]
    elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
        modules = [str(argument.value) for argument in node.args if isinstance(argument, ast.Constant)]
    if name not in DRIVER and {str(module).partition(".")[0] for module in modules} & DRIVERS:
        return f"no driver but in {', '.join(DRIVER)}"
    return None


def check_making(node: ast.AST, name: str) -> str | None:
    """Return what was expected instead of a Query that no .sql file has: made, changed, read, renamed."""
    made = False
    if isinstance(node, ast.ImportFrom):
        made = any(alias.name == "Query" and alias.asname for alias in node.names)
    elif isinstance(node, ast.Call):
        function = ast.unparse(node.func).rpartition(".")[2]
        made = function in ("Query", "read_queries") or any(word.arg == "sql" for word in node.keywords)
    allowed = name == "postgres/statements.py" or (
        name == "check/rollout.py" and "read_queries" in ast.unparse(node)
    )
    return (
        "queries out of .sql files alone: svc/postgres/statements.py makes them"
        if made and not allowed
        else None
    )


def check_sending(node: ast.AST, call: ast.Call | None, name: str) -> str | None:
    """Return what was expected instead of text on its way to the driver, now or later."""
    if not isinstance(node, ast.Attribute) or node.attr not in SENDING or name in SENDERS:
        return None
    if call is None and node.attr == "cursor":  # a field of a list's query
        return None
    sent = ", ".join(map(ast.unparse, call.args)) if call else None
    if name == "postgres/connection.py" and sent in GUARDED:
        return None
    return "nothing is sent but the text of a Query, in svc/postgres/connection.py"


def check_guard(node: ast.AST, name: str) -> str | None:
    """Return what was expected instead of a way around the guard, by its name or a text that is its name."""
    words: list[object] = []
    if isinstance(node, ast.Import | ast.ImportFrom):
        words = [getattr(node, "module", None), *(alias.name for alias in node.names)]
    elif isinstance(node, ast.Name | ast.Attribute | ast.Constant):
        words = [getattr(node, field, None) for field in ("id", "attr", "value")]
    elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
        words = [CHECK_CONNECTION for name in node.args[1:2] if getattr(name, "value", None) in SENDING]
    around = any(isinstance(word, str) and word in {*UNGUARDED, CHECK_CONNECTION} for word in words)
    return f"what sends text in {', '.join(GUARD)} alone" if around and name not in GUARD else None


def check_text(node: ast.AST, name: str) -> str | None:
    """Return what was expected instead of SQL in a string, which may be put together out of parts."""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else "x" for part in node.values]
        text = "".join(map(str, parts))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
    else:
        return None
    written = (*SENDERS, "postgres/connection.py")  # which compares what asyncpg asks of its own
    return "SQL in queries/*.sql alone" if SQL.match(text) and name not in written else None


def report(path: Path, node: ast.AST, expected: str, found: str) -> Finding:
    """Make a finding about a place in Python."""
    return Finding(
        kind="text",
        file=name_file(path),
        line=getattr(node, "lineno", 1),
        column=getattr(node, "col_offset", 0) + 1,
        query="-",
        expected=expected,
        found=found,
    )


def find_stars(query: Query) -> Iterator[Finding]:
    """Find `select *`: what comes would change with the table."""
    plain = TOKEN.sub(lambda token: token[0] if token["name"] else " " * len(token[0]), query.source)
    for star in STAR.finditer(plain):
        yield find(query, "column", "columns by name", "*", star.end() - 1)


def find_unbound(queries: Sequence[Query]) -> list[Finding]:
    """Find queries of .sql files that no class declares: their whole file is not bound."""
    bound = {query.path for query in queries}
    found: list[Finding] = []
    for path in sorted(find_folder("queries").glob("*.sql")):
        if path not in bound:
            expected = f"a class with file={path.name!r}"
            try:
                found += [find(query, "signature", expected, "none") for query in load(path.name).values()]
            except QueryError as error:
                found += [describe_mismatch(mismatch) for mismatch in error.mismatches]
    return found


def find_unused_snippets(folder: Path) -> list[Finding]:
    """Return a finding for each snippet that no statement and no other snippet of a folder uses."""
    snippets, paths = Snippets(), sorted(folder.glob("*.sql"))
    used = {
        (reference.path, reference.name)
        for path in paths
        for block in split_file(path.read_text(encoding="utf-8"))
        for reference in find_references("\n".join(block.lines), path)
    }
    return [
        describe_mismatch(snippet.differ("a use of the snippet", "none"), "unused")
        for path in paths
        for snippet in snippets.read(path)[0].values()
        if (path, snippet.name) not in used
    ]


def is_checkout() -> bool:
    """Return whether the package is used out of its checkout, where what was proven can be written down."""
    return (CHECKOUT / "pyproject.toml").exists()
