"""Values in circles are the least that agree, whichever is asked for first."""

from hypothesis import given
from hypothesis import strategies as st

from svc.check.fixpoint import Fixpoint

KEYS = range(5)
RULES = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.lists(st.sampled_from(KEYS), max_size=3)),
    min_size=len(KEYS),
    max_size=len(KEYS),
)
"""Of each key: whether it holds by itself, whether all or any of the others must hold, and these."""

Rule = tuple[bool, bool, list[int]]


def apply(rule: Rule, held: list[bool]) -> bool:
    """Whether a key holds, where others do."""
    itself, needs_all, _ = rule
    return itself or (all(held) and bool(held) if needs_all else any(held))


def iterate(rules: list[Rule]) -> list[bool]:
    """The same, computed over and over until nothing changes."""
    held = [False for _ in rules]
    for _ in range(len(rules) + 1):
        held = [apply(rule, [held[other] for other in rule[2]]) for rule in rules]
    return held


@given(rules=RULES, order=st.permutations(KEYS))
def test_every_key_has_its_least_value_in_whatever_order_they_are_asked(
    rules: list[Rule], order: list[int]
) -> None:
    known = Fixpoint(False)

    def get(key: int) -> bool:
        rule = rules[key]
        return known.get(key, lambda: apply(rule, [get(other) for other in rule[2]]))

    found = {key: get(key) for key in order}
    assert [found[key] for key in KEYS] == iterate(rules)
