"""The blocks of queries/*.sql, and the snippets among them: SQL that several statements have in common.

A snippet is written once, without a semicolon, and used by its name in braces:

    -- snippet: columns
    -- What clients see of a user.
    id, email, display_name

    -- name: get_user :one
    select {columns} from users where id = :id;

Another file's is `{users.columns}`, the one of users.sql. A snippet may hold parameters and use other
snippets: its text is put in as it is, before parameters get their numbers. Braces in text, quoted names and
comments are left alone.
"""

import re
from collections.abc import Callable, Iterator
from functools import reduce
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct


class Mismatch(Struct, frozen=True):
    """A place where SQL and signatures disagree, or where a file holds no query."""

    path: Path
    line: int
    query: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.path.name}:{self.line} {self.query}: expected {self.expected}, found {self.found}"


class Source(Struct, frozen=True):
    """A statement or a snippet as it is written: its header's line, and its text from line `line` on."""

    name: str
    path: Path
    header: int
    line: int
    text: str

    def find_line(self, at: int) -> int:
        """Return the line of a character, which counts from 0."""
        return self.line + self.text.count("\n", 0, at)

    def differ(self, expected: str, found: str, at: int | None = None) -> Mismatch:
        """Make a mismatch of the header, or of a character."""
        line = self.header if at is None else self.find_line(at)
        return Mismatch(self.path, line, self.name, expected, found)


class Piece(Struct, frozen=True):
    """Where a part of an expanded text comes from: what begins at `start` begins at `at` in its source."""

    start: int
    source: Source
    at: int


class Expanded(NamedTuple):
    """A text with all snippets put in, where its parts come from, and what could not be put in."""

    text: str
    pieces: tuple[Piece, ...]
    wrong: list[Mismatch]


class Block(NamedTuple):
    """A part of a file: its first line, the two halves of its header, the lines below it.

    What comes before the first header has an empty one.
    """

    line: int
    kind: str
    header: str
    lines: list[str]


HEADER = re.compile(r"-- (name|snippet):(.*)|/\* (name|snippet):(.*?) *\*/ *")
NAME = re.compile(r" *([a-z_]\w*) *")

DEPTH = 40
"""How deep comments may be in comments; PostgreSQL knows no bound, and a pattern needs one."""

LEVEL = r"/\*(?:[^*/]|\*(?!/)|/(?!\*)|{})*\*/"
NESTED = reduce(lambda inner, _: LEVEL.replace("{}", inner), range(DEPTH), r"(?!)")

COMMENT = re.compile(rf"--[^\n]*|{NESTED}")
TOKEN = re.compile(
    rf"""
      \b[eE]'(?:\\.|''|[^'\\])*'              # text with escapes
    | '(?:[^']|'')*'  |  "(?:[^"]|"")*"      # text and quoted names
    | (?P<comment>--[^\n]* | {NESTED})       # comments, one inside another
    | (\$\w*\$).*?\2                         # dollar quotes
    | ::                                     # casts
    | (?P<end>;)
    | (?<![\w\])'"]):(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)  # parameters; behind a value it is a slice's
    | \{{(?P<snippet>[a-z_]\w*(?:\.[a-z_]\w*)?)\}}
    """,
    re.VERBOSE | re.DOTALL,
)


def split_file(text: str) -> Iterator[Block]:
    """Yield the parts of a file, but for what comes before the first header where that is only comments."""
    block = Block(1, "", "", [])
    for number, content in enumerate(text.split("\n"), 1):
        if found := HEADER.fullmatch(content):
            if block.kind or COMMENT.sub("", "\n".join(block.lines)).strip():
                yield block
            kind, header = found.groups()[:2] if found[1] else found.groups()[2:]
            block = Block(number, kind, header, [])
        else:
            block.lines.append(content)
    if block.kind or COMMENT.sub("", "\n".join(block.lines)).strip():
        yield block


def count_comments(lines: list[str]) -> int:
    """Count the comments that a block begins with."""
    return next((number for number, line in enumerate(lines) if not line.startswith("--")), len(lines))


def read_file(path: Path) -> str | None:
    """Return the text of a file, or None where there is none."""
    return path.read_text(encoding="utf-8") if path.exists() else None


def read_snippet(block: Block, path: Path) -> Source | Mismatch:
    """Read a snippet, up to the comments that follow it: what is put in must not end in one."""
    named = NAME.fullmatch(block.header)
    if named is None:
        return Mismatch(path, block.line, "-", "-- snippet: columns", block.header.strip() or "no name")
    count = count_comments(block.lines)
    text = "\n".join(block.lines[count:])
    plain = TOKEN.sub(lambda token: " " * len(token[0]) if token["comment"] else token[0], text)
    snippet = Source(f"{{{named[1]}}}", path, block.line, block.line + 1 + count, text[: len(plain.rstrip())])
    end = next((token for token in TOKEN.finditer(snippet.text) if token["end"]), None)
    if end:
        return snippet.differ("a snippet without a semicolon", ";", end.start())
    return snippet if snippet.text else snippet.differ("the text of a snippet", "none")


class Reference(NamedTuple):
    """A snippet that a text uses: the file it is of, its name in braces, where it is used."""

    path: Path
    name: str
    start: int
    end: int


def find_references(text: str, path: Path) -> Iterator[Reference]:
    """Yield the snippets that a text of the file at `path` uses, in order."""
    for token in TOKEN.finditer(text):
        if token["snippet"]:
            file, _, name = token["snippet"].rpartition(".")
            other = path.with_name(f"{file}.sql") if file else path
            yield Reference(other, f"{{{name}}}", token.start(), token.end())


class Snippets:
    """The snippets of a folder's files, each read when it is asked for; `find_text` gives a file's text."""

    def __init__(self, find_text: Callable[[Path], str | None] = read_file) -> None:
        self._find_text = find_text
        self._files: dict[Path, tuple[dict[str, Source], list[Mismatch]]] = {}

    def read(self, path: Path) -> tuple[dict[str, Source], list[Mismatch]]:
        """Return a file's snippets, by their names in braces, and what is none, or one twice."""
        if path not in self._files:
            found: dict[str, Source] = {}
            wrong: list[Mismatch] = []
            for block in split_file(self._find_text(path) or ""):
                snippet = read_snippet(block, path) if block.kind == "snippet" else None
                if isinstance(snippet, Source) and snippet.name in found:
                    snippet = snippet.differ("one snippet of this name", "two")
                if isinstance(snippet, Source):
                    found[snippet.name] = snippet
                elif snippet:
                    wrong.append(snippet)
            self._files[path] = found, wrong
        return self._files[path]

    def check(self, path: Path) -> list[Mismatch]:
        """Return what is wrong with a file's snippets, whoever uses them."""
        found, wrong = self.read(path)
        return [*wrong, *(each for snippet in found.values() for each in self.expand(snippet).wrong)]

    def expand(self, source: Source) -> Expanded:
        """Put the snippets into a text."""
        wrong: list[Mismatch] = []
        pieces: list[Piece] = []
        parts: list[str] = []
        start = 0
        for part, at, end in self._split(source, (source,), wrong):
            pieces.append(Piece(start, part, at))
            parts.append(part.text[at:end])
            start += end - at
        return Expanded("".join(parts), tuple(pieces), wrong)

    def _split(
        self, source: Source, within: tuple[Source, ...], wrong: list[Mismatch]
    ) -> Iterator[tuple[Source, int, int]]:
        """Yield the parts of an expanded text, each with its source, its start and its end there."""
        at = 0
        for reference in find_references(source.text, source.path):
            yield source, at, reference.start
            at = reference.end
            snippet = self.read(reference.path)[0].get(reference.name)
            if snippet is None:
                expected = f"a snippet {reference.name} in {reference.path.name}"
                wrong.append(source.differ(expected, "none", reference.start))
            elif snippet in within:
                circle = [*within[within.index(snippet) :], snippet]
                found = " → ".join(each.name for each in circle)
                wrong.append(source.differ("a snippet that does not use itself", found, reference.start))
            else:
                yield from self._split(snippet, (*within, snippet), wrong)
        yield source, at, len(source.text)
