"""Every way in which a schema can drift is found, and none is found in vain: with `--full`, since it takes minutes.

What each kind of change does to readiness and the log is in test_fingerprint.py, for every run.
"""

import pytest

from tests.support.drift import run, tabulate


def test_svc_check_names_exactly_the_queries_that_a_change_hits(pytestconfig: pytest.Config) -> None:
    if not pytestconfig.getoption("--full"):
        pytest.skip("takes minutes: --full")
    verdicts = list(run())
    print(tabulate(verdicts))
    assert {verdict.mutant.statement: verdict.named for verdict in verdicts} == {
        verdict.mutant.statement: verdict.hit for verdict in verdicts
    }
