"""Values that depend on each other, in a circle too, as the columns of a recursive query do."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")


class Fixpoint(Generic[V]):
    """The least values that agree with each other; each is computed once, but for those in a circle.

    Every value begins as the least one. What is asked for while it is computed is as far as it has come, and
    the whole is computed again until nothing grows. Values must only ever grow, and not for ever.
    """

    def __init__(self, least: V) -> None:
        self._least = least
        self._values: dict[Hashable, V] = {}
        self._seen: set[Hashable] = set()
        self._computing: set[Hashable] = set()
        self._circular = self._grown = False

    def get(self, key: Hashable, compute: Callable[[], V]) -> V:
        """Return the value of a key, which `compute` makes of others."""
        if key in self._computing:
            self._circular = True
        elif key not in self._seen:
            self._compute(key, compute)
        return self._values.get(key, self._least)

    def _compute(self, key: Hashable, compute: Callable[[], V]) -> None:
        known = set(self._seen)
        self._compute_once(key, compute)
        while not self._computing and self._circular and self._grown:  # whichever of them grew
            self._seen, self._grown = set(known), False
            self._compute_once(key, compute)
        if not self._computing:
            self._circular = self._grown = False

    def _compute_once(self, key: Hashable, compute: Callable[[], V]) -> None:
        self._seen.add(key)
        self._computing.add(key)
        value = compute()
        self._computing.discard(key)
        self._grown |= value != self._values.get(key, self._least)
        self._values[key] = value
