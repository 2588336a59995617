"""Which queries the source uses: a call is one where what it is called on is bound to the query's class.

That is read from the names alone, module by module: what is annotated with the class or bound to it
(`queries: UserQueries`, `service.bind(UserQueries)`, `transaction(UserQueries) as users`), and what is set to
such a thing. An attribute of another thing that has the same name is no use.
"""

import ast
from collections.abc import Iterator, Mapping, Sequence, Set

from svc.postgres.statements import Query


def find_unused(queries: Sequence[Query], modules: Sequence[Sequence[ast.AST]]) -> list[Query]:
    """Return the queries that no module uses; a module is all of its nodes."""
    files = {name: file for nodes in modules for name, file in find_classes(nodes)}
    used = {use for nodes in modules for use in find_uses(nodes, files)}
    return [query for query in queries if (query.path.name, query.name) not in used]


def find_classes(nodes: Sequence[ast.AST]) -> Iterator[tuple[str, str]]:
    """Yield each class of queries with its file: `class UserQueries(Queries, Protocol, file="users.sql")`."""
    for node in nodes:
        if not isinstance(node, ast.ClassDef):
            continue
        for keyword in node.keywords:
            if keyword.arg == "file" and isinstance(keyword.value, ast.Constant):
                yield node.name, str(keyword.value.value)


def find_uses(nodes: Sequence[ast.AST], files: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield the file and the name of each query that a module takes from what is bound to its class."""
    if not any(isinstance(node, ast.Name | ast.Constant) and mentioned(node, files.keys()) for node in nodes):
        return
    bound = find_bound(nodes, files.keys())
    for node in nodes:
        if isinstance(node, ast.Attribute):
            for name in bound.get(ast.unparse(node.value), set()) | mentioned(node.value, files.keys()):
                yield files[name], node.attr


def find_bound(nodes: Sequence[ast.AST], classes: Set[str]) -> dict[str, set[str]]:
    """Return what is bound to classes of queries, as it is written: `self._queries`."""
    bound: dict[str, set[str]] = {}
    pairs = [pair for node in nodes for pair in find_bindings(node)]
    size = -1
    while size != (size := sum(map(len, bound.values()))):
        for target, source in pairs:
            names = mentioned(source, classes) | bound.get(ast.unparse(source), set())
            if names:
                bound.setdefault(target, set()).update(names)
    return bound


def find_bindings(node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
    """Yield what a node gives a name, with what says what it is."""
    match node:
        case ast.arg(annotation=ast.expr() as annotation):
            yield node.arg, annotation
        case ast.AnnAssign():
            yield ast.unparse(node.target), node.annotation
        case ast.Assign():
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    parts = zip(target.elts, node.value.elts, strict=False)
                    yield from ((ast.unparse(part), value) for part, value in parts)
                yield ast.unparse(target), node.value
        case ast.withitem(optional_vars=ast.expr() as target):
            names = target.elts if isinstance(target, ast.Tuple) else [target]
            yield from ((ast.unparse(name), node.context_expr) for name in names)
        case _:
            return


def mentioned(node: ast.AST, classes: Set[str]) -> set[str]:
    """Return the classes that an expression names."""
    names = {getattr(each, "id", None) or getattr(each, "value", None) for each in ast.walk(node)}
    return {name for name in names if isinstance(name, str) and name in classes}
