"""What was forgotten, found from the code and the committed proof alone: at each start, and in `svc check`.

None of these needs a database. `svc check` looks at the migrated schema as well, and keeps what it found of
the constraints in queries/proven.json for the starts.
"""

import inspect
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from svc.config import PACKAGE
from svc.http.operations import Operation
from svc.http.resource import MACHINERY, Resource, collect_constraints, collect_queries, collect_scopes
from svc.postgres.proven import Proven, read_written
from svc.postgres.queries import Queries

MACHINERY_PACKAGES = frozenset(["http", "postgres", "check"])
"""The packages of svc/ that are no resources."""


class Mistake(Struct, frozen=True):
    """Something that is missing: where, what should be there, what is."""

    path: Path
    line: int
    subject: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} {self.subject}: expected {self.expected}, found {self.found}"


class WiringError(Exception):
    """The resources do not fit together; the message says what is missing, a line for each."""

    def __init__(self, mistakes: Sequence[Mistake]) -> None:
        super().__init__("\n".join(map(str, mistakes)))


def check_wiring(resources: Sequence[Resource], proven: Proven | None = None) -> None:
    """Check that nothing was forgotten. Raises WiringError.

    `proven` are the facts of the queries, out of queries/proven.json unless they are given.
    """
    facts = read_written().queries if proven is None else proven
    if mistakes := find_mistakes([MACHINERY, *resources], facts):
        raise WiringError(mistakes)


def find_mistakes(resources: Sequence[Resource], proven: Proven | None) -> list[Mistake]:
    """Return all that was forgotten; of constraints nothing where not every query is proven."""
    operations = [operation for resource in resources for operation in resource.operations]
    return [
        *find_unknown_scopes(resources, operations),
        *find_unfit_handlers(operations),
        *find_unserved(operations),
        *find_unlisted_modules(),
        *find_unsupplied_queries(resources),
        *(find_unanswered_constraints(resources, proven) if proven else ()),
    ]


def at_operation(operation: Operation, expected: str, found: str) -> Mistake:
    """Return a mistake at an operation's handler."""
    code = getattr(inspect.unwrap(operation.handler), "__code__", None)
    path, line = (Path(code.co_filename), code.co_firstlineno) if code else (PACKAGE / "app.py", 1)
    return Mistake(path, line, str(operation), expected, found)


def find_unknown_scopes(resources: Sequence[Resource], operations: Sequence[Operation]) -> Iterator[Mistake]:
    """Find scopes that no key can have, and operations with a scope where nobody can tell who has it."""
    scopes = collect_scopes(resources)
    knows = any(resource.authenticator for resource in resources)
    for operation in operations:
        if operation.scope and operation.scope not in scopes:
            expected = f"a scope out of {', '.join(scopes) or 'none'}"
            yield at_operation(operation, expected, operation.scope)
        elif operation.scope and not knows:
            yield at_operation(operation, "a resource with an authenticator", "none")


def find_unfit_handlers(operations: Sequence[Operation]) -> Iterator[Mistake]:
    """Find handlers that want more than the request."""
    for operation in operations:
        try:
            inspect.signature(operation.handler).bind(None)
        except TypeError as error:
            yield at_operation(operation, "a handler of a request and nothing else", str(error))


def find_unserved(operations: Sequence[Operation]) -> Iterator[Mistake]:
    """Find operations behind another one of the same method and path, and handlers without an operation."""
    taken: dict[tuple[str, str], Operation] = {}
    for operation in operations:
        other = taken.setdefault((operation.method, operation.path), operation)
        if other is not operation:
            yield at_operation(operation, "one operation of this method and path", "two")
    served = {getattr(operation.handler, "__func__", None) for operation in operations}
    instances: list[object] = [getattr(operation.handler, "__self__", None) for operation in operations]
    for owner in dict.fromkeys(type(instance) for instance in instances if instance):
        for name, function in vars(owner).items():
            takes_request = "request" in getattr(function, "__annotations__", {})
            if takes_request and not name.startswith("_") and function not in served:
                code = function.__code__
                place = Path(code.co_filename), code.co_firstlineno
                yield Mistake(*place, f"{owner.__name__}.{name}", "an operation that serves it", "none")


def find_unlisted_modules() -> Iterator[Mistake]:
    """Find modules of resources that nothing has brought in: their line in svc/app.py is missing."""
    for path in sorted(PACKAGE.glob("*/**/*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[1] not in MACHINERY_PACKAGES and name not in sys.modules:
            yield Mistake(path, 1, name, "a line in RESOURCES of svc/app.py", "none")


def find_unsupplied_queries(resources: Sequence[Resource]) -> Iterator[Mistake]:
    """Find classes of queries that no resource names."""
    supplied = collect_queries(resources, offline=True)
    for queries in Queries.__subclasses__():
        served = re.match(r"svc\.(?!check\.)", queries.__module__)  # the check supplies its own to itself
        if served and queries not in supplied and "_file" in vars(queries):
            path = Path(sys.modules[queries.__module__].__file__ or "")
            line = inspect.getsourcelines(queries)[1]
            yield Mistake(path, line, queries.__name__, "a resource that names it among its queries", "none")


def find_unanswered_constraints(resources: Sequence[Resource], proven: Proven) -> Iterator[Mistake]:
    """Find constraints that a query may break without an answer, and answers without a constraint."""
    answered = collect_constraints(resources)
    breakable = {name: query for query, facts in proven.items() for name in facts.constraints}
    for name in sorted(breakable.keys() - answered.keys()):
        expected = f"an entry for {name} in a resource's constraints: a Refusal, or OURS"
        yield Mistake(PACKAGE / "app.py", 1, breakable[name], expected, "none")
    for name in sorted(answered.keys() - breakable.keys()):
        yield Mistake(*find_text(f'"{name}"'), name, "a constraint that a query may break", "none")


def find_text(text: str) -> tuple[Path, int]:
    """Return the file of svc/ and the line in which a text stands first."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if text in line:
                return path, number
    return PACKAGE / "app.py", 1
