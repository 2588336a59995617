"""No pattern of the service takes more steps than its text has characters, a few times over."""

import pytest

from tests.support.patterns import find_growth, find_patterns

PATTERNS = find_patterns()

OWN = ("svc.check", "svc.postgres.snippets", "svc.postgres.statements")
"""Modules whose patterns see nothing from outside: our own files, and what PostgreSQL says of them."""

WAS = r"""\s*(?:(?:[\w.]+\s+)*[\w.]+|"(?:[^"]|\")+")?\s*<(.+)>\s*"""
"""As addresses with a name were read once: two thousand blanks took 50 ms."""


def test_all_patterns_are_found() -> None:
    found = {name for name in PATTERNS if not name.startswith("svc.")}
    assert {"NAME in svc.http.emails", "HEAD in svc.http.fast_path", "PHC in svc.accounts.passwords"} <= found
    assert len(PATTERNS) > 40


@pytest.mark.parametrize("where", [name for name in PATTERNS if not any(own in name for own in OWN)])
def test_a_pattern_takes_a_few_steps_for_each_character(where: str) -> None:
    pattern, whole = PATTERNS[where]
    assert find_growth(pattern, whole=whole) is None


@pytest.mark.parametrize("pattern", [WAS, r"(a+)+", r"(a|aa)*", r"\s*a?\s*b", r".*,.*;"])
def test_a_pattern_that_tracks_back_is_found_out(pattern: str) -> None:
    assert find_growth(pattern, whole=True)


@pytest.mark.parametrize("pattern", [r"\s+$", r'"(?:\\.|[^"\\])*"'])
def test_a_pattern_that_is_tried_at_each_place_is_found_out(pattern: str) -> None:
    assert find_growth(pattern, whole=False)
