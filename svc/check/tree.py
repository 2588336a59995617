"""PostgreSQL's own analysis of a statement, read back as a tree.

A SQL-standard function body (`create function … begin atomic …`, PostgreSQL 14) is stored analysed: every
column is bound to its table, every join has said which columns it may turn to null (`varnullingrels`,
PostgreSQL 16), every parameter has its type. It may hold all that a query may be: select, insert, update
and delete with returning, common table expressions, set operations. So nothing here guesses at SQL.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

Node = dict[str, Any]
"""One node: its type under `""`, its fields by name. A value is text, a list, a node, or None for `<>`."""

TOKEN = re.compile(r'[{}()]|\[[^\]]*\]|"(?:\\.|[^"\\])*"|(?:\\.|[^\s(){}\\])+')


def parse_tree(text: str) -> Any:
    """Read what PostgreSQL prints of a tree: a node, or a list."""
    tokens = iter(TOKEN.findall(text))
    return read_value(next(tokens), tokens)


def parse_queries(text: str) -> list[Node]:
    """Read the queries of a function's body or of a view, in order."""
    return [node for node in walk_own(parse_tree(text)) if node[""] == "QUERY"]


def read_value(token: str, tokens: Iterator[str]) -> Any:
    """Read a node, a list, or a plain value."""
    if token == "{":
        return read_node(tokens)
    if token == "(":
        return read_list(tokens)
    return None if token == "<>" else re.sub(r"\\(.)", r"\1", token.strip('"'))


def read_list(tokens: Iterator[str]) -> list[Any]:
    """Read the rest of a list. A list of numbers begins with a letter for their kind, which is left out."""
    values = [read_value(token, tokens) for token in iter(tokens.__next__, ")")]
    return values[1:] if values and values[0] in ("b", "i", "o") else values


def read_node(tokens: Iterator[str]) -> Node:
    """Read the rest of a node. Of a value in two parts, as a constant's is, the last counts."""
    node: Node = {"": next(tokens)}
    field = ""
    for token in iter(tokens.__next__, "}"):
        if token.startswith(":"):
            field = token[1:]
            node[field] = None
        else:
            node[field] = read_value(token, tokens)
    return node


def listed(value: Any) -> list[Node]:
    """Return a list of nodes, which may be `<>`."""
    return cast("list[Node]", value or [])


def walk(value: Any, *, into_queries: bool = True) -> Iterator[Node]:
    """Yield every node in a value, outermost first; what is in queries, another scope, may be left out."""
    if isinstance(value, dict):
        node = cast("Node", value)
        yield node
        parts = cast("Iterable[Any]", node.values() if into_queries or node.get("") != "QUERY" else ())
    else:
        parts = cast("Iterable[Any]", value) if isinstance(value, list) else ()
    for part in parts:
        if isinstance(part, dict | list):  # nine of ten are plain values
            yield from walk(part, into_queries=into_queries)


WRAPPERS = (
    "RELABELTYPE",
    "COERCEVIAIO",
    "COERCETODOMAIN",
    "COLLATEEXPR",
    "ARRAYCOERCEEXPR",
    "CONVERTROWTYPEEXPR",
    "NAMEDARGEXPR",
)
"""Casts and the like, and arguments by name, which make no null of what is none."""


def read_bytes(constant: Node) -> bytes:
    """Return the bytes of a constant that is not null."""
    return bytes(int(byte) & 255 for byte in str(constant["constvalue"]).strip("[] ").split())


def has_null(array: Node) -> bool:
    """Return whether a constant array holds a null: it says then where its data begins (utils/array.h)."""
    return read_bytes(array)[8:12] != bytes(4)


def unwrap(expression: Node) -> Node:
    """Return an expression without the casts around it that change no null."""
    while expression[""] in WRAPPERS:
        expression = expression["arg"]
    return expression


def relabelled(expression: Node) -> Node:
    """Return an expression without the casts that leave its value as it is: '05'::int is 5, but not '5'."""
    while expression[""] == "RELABELTYPE":
        expression = expression["arg"]
    return expression


def conjuncts(condition: Any) -> Iterator[Node]:
    """Yield the parts of a condition that must all hold."""
    if condition is None:
        return
    if condition[""] == "BOOLEXPR" and condition["boolop"] == "and":
        for part in condition["args"]:
            yield from conjuncts(part)
    else:
        yield condition


def walk_own(value: Any) -> Iterator[Node]:
    """Yield every node of this scope: sub-queries themselves, but not what is in them."""
    return walk(value, into_queries=False)
