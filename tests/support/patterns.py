"""How many steps a pattern takes on a text: a backtracking matcher that counts, and all patterns of the service.

Steps, and not seconds: they are the same on each machine. The matcher goes the way of Python's `re` (the first
choice first, one step back at a time) without its short cuts, so it counts too much rather than too little.
"""

import ast
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from pathlib import Path
from pkgutil import walk_packages
from re import _constants as constants  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

import svc

SEARCHING = ("search", "findall", "finditer", "sub", "split")
"""The methods that try a pattern at each place of a text."""

OUTSIDE = "\x01"
"""A character that few patterns know."""

CATEGORIES: dict[Any, Callable[[str], bool]] = {
    constants.CATEGORY_DIGIT: str.isdigit,
    constants.CATEGORY_NOT_DIGIT: lambda c: not c.isdigit(),
    constants.CATEGORY_SPACE: str.isspace,
    constants.CATEGORY_NOT_SPACE: lambda c: not c.isspace(),
    constants.CATEGORY_WORD: lambda c: c.isalnum() or c == "_",
    constants.CATEGORY_NOT_WORD: lambda c: not (c.isalnum() or c == "_"),
}
LOOKING = (constants.AT, constants.ASSERT, constants.ASSERT_NOT, constants.GROUPREF)
REPEATS = (constants.MAX_REPEAT, constants.MIN_REPEAT, constants.POSSESSIVE_REPEAT)


MOST_STEPS = 20_000


class TooManyError(Exception):
    """A pattern took MOST_STEPS."""


class Counter:
    """One pattern on one text; `steps` is what it took. Raises TooManyError."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.steps = 0

    def step(self) -> None:
        """Counts one."""
        self.steps += 1
        if self.steps > MOST_STEPS:
            raise TooManyError

    def match(self, nodes: list[Any], at: int, following: Callable[[int], Iterator[int]]) -> Iterator[int]:
        """Every end of a match of these nodes and of what follows, in the order in which they are tried."""
        if not nodes:
            yield from following(at)
            return
        (kind, value), rest = nodes[0], nodes[1:]
        self.step()

        def go_on(place: int) -> Iterator[int]:
            return self.match(rest, place, following)

        if kind in REPEATS:
            least, most, inner = value
            yield from self.repeat(kind, least, most, list(inner), at, go_on)
        elif kind in (constants.SUBPATTERN, constants.BRANCH):
            for branch in value[1] if kind is constants.BRANCH else value[-1:]:
                yield from self.match(list(branch), at, go_on)
        elif (end := self.pass_over(kind, value, at)) is not None:
            yield from go_on(end)

    def pass_over(self, kind: Any, value: Any, at: int) -> int | None:
        """Where one character ends, or none that is looked for; None where it is another one."""
        if kind in LOOKING:
            return at if self.holds(kind, value, at) else None
        return at + 1 if at < len(self.text) and is_in(kind, value, self.text[at]) else None

    def holds(self, kind: Any, value: Any, at: int) -> bool:
        """Whether what takes no character is so at this place; what is not known here is so."""
        if kind in (constants.ASSERT, constants.ASSERT_NOT) and value[0] > 0:
            found = any(True for _ in self.match(list(value[1]), at, iter_one))
            return found == (kind is constants.ASSERT)
        if value in (constants.AT_BEGINNING, constants.AT_BEGINNING_STRING):
            return at == 0
        if value in (constants.AT_END, constants.AT_END_STRING):
            return at == len(self.text)
        return True

    def repeat(
        self,
        kind: Any,
        least: int,
        most: Any,
        inner: list[Any],
        at: int,
        go_on: Callable[[int], Iterator[int]],
    ) -> Iterator[int]:
        """The same, of a part that comes several times."""
        ends = self.run(inner, at, most)
        if ends is None:
            yield from self.repeat_group(least, most, inner, at, go_on)
            return
        ends = ends[least:]
        if kind is constants.POSSESSIVE_REPEAT:
            ends = ends[-1:]
        for end in ends if kind is constants.MIN_REPEAT else reversed(ends):
            self.step()
            yield from go_on(end)

    def run(self, inner: list[Any], at: int, most: Any) -> list[int] | None:
        """The ends of a run of single characters; None for what is more than one."""
        if len(inner) != 1 or inner[0][0] in (*REPEATS, constants.SUBPATTERN, constants.BRANCH):
            return None
        ends, (kind, value) = [at], inner[0]
        while at < len(self.text) and len(ends) <= most and is_in(kind, value, self.text[at]):
            at += 1
            ends.append(at)
            self.step()
        return ends

    def repeat_group(
        self, least: int, most: Any, inner: list[Any], at: int, go_on: Callable[[int], Iterator[int]]
    ) -> Iterator[int]:
        """The same, of a group: as often as it goes, then once less."""

        def again(place: int) -> Iterator[int]:
            if place > at and most > 1:
                yield from self.repeat_group(max(0, least - 1), most - 1, inner, place, go_on)

        yield from self.match(inner, at, again)
        if least <= 0:
            yield from go_on(at)


def iter_one(place: int) -> Iterator[int]:
    """A match that nothing follows."""
    yield place


def is_in(kind: Any, value: Any, character: str) -> bool:
    """Whether a node of one character takes this one."""
    if kind is constants.ANY:
        return character != "\n"
    if kind is constants.LITERAL:
        return bool(ord(character) == value)
    if kind is constants.NOT_LITERAL:
        return bool(ord(character) != value)
    if kind is constants.IN:
        negated = value[0][0] is constants.NEGATE
        return negated != any(is_member(each, character) for each in value[negated:])
    raise NotImplementedError(kind)


def is_member(item: Any, character: str) -> bool:
    """Whether a part of a set has a character."""
    kind, value = item
    if kind is constants.LITERAL:
        return bool(ord(character) == value)
    if kind is constants.RANGE:
        return bool(value[0] <= ord(character) <= value[1])
    return CATEGORIES[value](character)


def count_steps(pattern: str | bytes, text: str, *, whole: bool) -> int:
    """The steps of a `fullmatch`, or of a search from each place of a text on; at most MOST_STEPS."""
    try:
        return count_all_steps(pattern, text, whole=whole)
    except TooManyError:
        return MOST_STEPS


def count_all_steps(pattern: str | bytes, text: str, *, whole: bool) -> int:
    """The same. Raises TooManyError."""
    sys.setrecursionlimit(20_000)
    nodes, counter = list(parser.parse(pattern)), Counter(text)
    if whole:
        any(end == len(text) for end in counter.match(nodes, 0, iter_one))
        return counter.steps
    at = 0
    while at <= len(text):
        end = next(counter.match(nodes, at, iter_one), at)
        at = end if end > at else at + 1
    return counter.steps


def find_characters(nodes: Any) -> set[str]:
    """A character for each set that a pattern has."""
    found: set[str] = set()
    for kind, value in nodes:
        if kind in (constants.IN, constants.NOT_LITERAL, constants.ANY, constants.LITERAL):
            known = [c for c in " \t\"\\a0,.:;<>@=-/*'()[]_$\r\n\x00ä" if is_in(kind, value, c)]
            found |= set(known[:2]) | ({chr(value)} if kind is constants.LITERAL else set())
        elif kind in REPEATS:
            found |= find_characters(value[2])
        elif kind is constants.BRANCH:
            for branch in value[1]:
                found |= find_characters(branch)
        elif kind in (constants.SUBPATTERN, constants.ASSERT, constants.ASSERT_NOT):
            found |= find_characters(value[-1])
    return found


def make_evil(pattern: str | bytes) -> Iterator[Callable[[int], str]]:
    """Texts that grow: something to begin with, something again and again, something to end with."""
    letters = sorted(find_characters(parser.parse(pattern)))[:8]
    pumps = ["".join(word) for size in (1, 2) for word in product(letters, repeat=size)]
    for start, pump, end in product(["", *letters], pumps, ["", OUTSIDE]):
        yield partial(grow, start, pump, end)


def grow(start: str, pump: str, end: str, size: int) -> str:
    """A text of so many characters, and the few at its ends."""
    return start + pump * (size // len(pump)) + end


def find_growth(pattern: str | bytes, *, whole: bool) -> str | None:
    """A text on which twice the length takes far more than twice the steps; None where there is none."""
    for make in make_evil(pattern):
        if count_steps(pattern, make(24), whole=whole) < 8 * 24:
            continue
        once, twice = (count_steps(pattern, make(size), whole=whole) for size in (60, 120))
        if twice > 3 * once or twice == MOST_STEPS:
            return make(24)
    return None


def find_patterns() -> dict[str, tuple[str | bytes, bool]]:
    """Every pattern that the modules of the service hold or use: where, and whether it is tried as a whole."""
    found: dict[str, tuple[str | bytes, bool]] = {}
    for module in walk_packages(svc.__path__, "svc."):
        if module.name.endswith("__main__"):
            continue
        __import__(module.name)
        loaded = sys.modules[module.name]
        text = Path(loaded.__file__ or "").read_text(encoding="utf-8")
        classes = (each for each in vars(loaded).values() if isinstance(each, type))
        for holder in (loaded, *(each for each in classes if each.__module__ == module.name)):
            for name, value in vars(holder).items():
                if isinstance(value, re.Pattern):
                    found[f"{name} in {module.name}"] = value.pattern, not is_searched(name, text)
        for line, pattern, whole in find_inline(text):
            found[f"{module.name}:{line}"] = pattern, whole
    return found


def is_searched(name: str, text: str) -> bool:
    """Whether a module tries a pattern at each place of a text."""
    return any(f"{name}.{way}(" in text or f"re.{way}({name}" in text for way in SEARCHING)


def find_inline(text: str) -> Iterator[tuple[int, str | bytes, bool]]:
    """The patterns that are written where they are used, with their lines."""
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        named = [word.value for word in node.keywords if word.arg == "pattern"]
        function = ast.unparse(node.func)
        used = function.startswith("re.") and function != "re.compile" and function != "re.escape"
        for argument in [*named, *(node.args[:1] if used else [])]:
            if isinstance(argument, ast.Constant) and isinstance(argument.value, str | bytes):
                yield node.lineno, argument.value, not function.endswith(SEARCHING)
