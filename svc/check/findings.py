"""What the check finds, and how it is told."""

import re
from bisect import bisect_right
from pathlib import Path
from typing import Literal

from msgspec import Struct

from svc.config import CHECKOUT
from svc.postgres.snippets import TOKEN, Mismatch
from svc.postgres.statements import Query

Kind = Literal[
    "sql", "parameter", "column", "nullability", "null-parameter", "secret", "cardinality", "plan",
    "annotation", "trial", "text", "unused", "signature", "wiring", "rollout", "proof", "drift",
]  # fmt: skip


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One disagreement. `line` and `column` count from 1; a `warning` does not fail the check."""

    kind: Kind
    file: str
    line: int
    query: str
    expected: str
    found: str
    column: int = 1
    excerpt: str = ""
    warning: bool = False

    def __str__(self) -> str:
        word = "warning" if self.warning else "error"
        text = f"{self.file}:{self.line}:{self.column}: {word}: {self.query}: {self.kind}"
        text += f"\n  expected  {self.expected}\n  found     {self.found}"
        if self.excerpt:
            text += f"\n  | {self.excerpt}\n  | {' ' * (self.column - 1)}^"
        return text


def name_file(path: Path) -> str:
    """Return a path as one would type it in the checkout."""
    return str(path.relative_to(CHECKOUT)) if path.is_relative_to(CHECKOUT) else str(path)


def find(
    query: Query, kind: Kind, expected: str, found: str, at: int | None = None, warning: bool = False
) -> Finding:
    """Make a finding about a query; `at` counts the characters of its source from 0.

    Its place is where that character is written: in the query, or in a snippet that it uses.
    """
    path, line, column, excerpt = query.path, query.line, 1, ""
    if at is not None:
        piece = query.pieces[bisect_right(query.pieces, at, key=lambda piece: piece.start) - 1]
        source, at = piece.source, piece.at + at - piece.start
        before = source.text[:at]
        path, line = source.path, source.find_line(at)
        column = at - (before.rfind("\n") + 1) + 1
        excerpt = source.text.split("\n")[before.count("\n")]
    return Finding(
        kind=kind,
        file=name_file(path),
        line=line,
        column=column,
        query=query.name,
        expected=expected,
        found=found,
        excerpt=excerpt,
        warning=warning,
    )


def describe_mismatch(mismatch: Mismatch, kind: Kind = "signature") -> Finding:
    """Make a finding of what does not fit before there is a database."""
    return Finding(
        kind=kind,
        file=name_file(mismatch.path),
        line=mismatch.line,
        query=mismatch.query,
        expected=mismatch.expected,
        found=mismatch.found,
    )


def find_parameter(query: Query, name: str) -> int:
    """Return where a parameter first stands in the source."""
    return next(token.start() for token in TOKEN.finditer(query.source) if token["name"] == name)


def find_position(query: Query, position: int) -> int:
    """Return where in the source, from 0, a character of the sent SQL stands, which counts from 1."""
    shift, sent = 0, position - 1
    for token in TOKEN.finditer(query.source):
        if token["name"]:
            start = token.start() + shift
            if start >= sent:
                break
            number = query.parameters.index(token["name"]) + 1
            shift += len(f"${number}") - len(token[0])
    return max(0, min(sent - shift, len(query.source)))


def find_column(query: Query, name: str) -> int | None:
    """Return where a column's name first stands in the source, if it is written out at all."""
    places = [match.start() for match in re.finditer(rf"\b{re.escape(name)}\b", query.source)]
    return places[0] if places else None
