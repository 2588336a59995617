"""Every way in which a schema can drift is found, and none is found in vain; `--full` tries them all."""

import pytest

from svc.config import DatabaseUrl
from tests.support.drift import run, tabulate


def test_svc_check_names_exactly_the_queries_that_a_change_hits(
    server_url: DatabaseUrl, pytestconfig: pytest.Config
) -> None:
    verdicts = list(run(server_url, every=1 if pytestconfig.getoption("--full") else 16))
    print(tabulate(verdicts))
    assert {verdict.mutant.statement: verdict.named for verdict in verdicts} == {
        verdict.mutant.statement: verdict.hit for verdict in verdicts
    }
