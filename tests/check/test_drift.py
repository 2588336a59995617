"""Every way in which a schema can drift is found, and none is found in vain; `--full` tries them all."""

import pytest

from tests.support.drift import run, tabulate


def test_svc_check_names_exactly_the_queries_that_a_change_hits(request: pytest.FixtureRequest) -> None:
    verdicts = list(run(every=1 if request.config.getoption("--full") else 100))
    print(tabulate(verdicts))
    assert {verdict.mutant.statement: verdict.named for verdict in verdicts} == {
        verdict.mutant.statement: verdict.hit for verdict in verdicts
    }
