"""Wiring: what was forgotten ends a start, and is a finding of `svc check`, by name."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from svc.app import build_resources
from svc.check.command import check, describe_mistake, prove_all
from svc.check.findings import Finding
from svc.check.scratch import connect
from svc.check.wiring import WiringError, check_wiring, find_mistakes
from svc.config import Config
from svc.http.operations import Operation
from svc.http.problems import OURS
from svc.http.resource import MACHINERY
from svc.http.resource import Service as Parts
from svc.postgres.proven import Proven, read_written
from tests.support import skip_before_18
from tests.support.logs import forget_handlers
from tests.support.things import PROVEN, ThingQueries, build

UNFIT = {("create_thing", "parameter"), ("update_thing", "parameter")}
"""What the proof finds of things: a size may be sent that is more than is stored."""


class Start:
    """A start of the product's resources and of things, any of which may have been changed."""

    def __init__(self) -> None:
        self._parts = Parts(Config())
        self.product = build_resources(self._parts)
        self.things = build(self._parts)

    @property
    def operations(self) -> list[Operation]:
        """Return those of things."""
        return [*self.things.operations]

    def operation(self, text: str) -> Operation:
        """Return the one of things that is written so."""
        return next(operation for operation in self.operations if str(operation) == text)

    def change_things(self, **changes: object) -> None:
        """Have things own something else."""
        self.things = replace(self.things, **changes)

    def change_operation(self, text: str, **changes: object) -> None:
        """Have one operation of things be another one."""
        old = self.operation(text)
        self.change_things(
            operations=[replace(each, **changes) if each is old else each for each in self.operations]
        )

    def find_lines(self, proven: Proven = PROVEN) -> list[str]:
        """Return what the start ends with, a line each.

        Hold that `svc check`, which knows the same of the queries, finds as many mistakes of the same names.
        """
        resources, facts = [*self.product, self.things], {**read_written().queries, **proven}
        try:
            check_wiring(resources, facts)
            lines = []
        except WiringError as error:
            lines = str(error).split("\n")
        findings = [*map(describe_mistake, find_mistakes([MACHINERY, *resources], facts))]
        assert [finding for finding in findings if finding.kind != "wiring" or finding.warning] == []
        for finding, line in zip(findings, lines, strict=True):
            subject, expected = finding.expected.split(": ", 1)
            place = f"{Path(finding.file).name}:{finding.line}"
            assert line == f"{place} {subject}: expected {expected}, found {finding.found}"
        return lines


@pytest.fixture
def start() -> Iterator[Start]:
    """A start in which nothing was forgotten yet."""
    yield Start()
    forget_handlers()


def test_what_fits_together_starts(start: Start) -> None:
    assert start.find_lines() == []


def test_a_scope_that_no_key_can_have_is_named(start: Start) -> None:
    start.change_operation("PATCH /things/{id}", scope="things:own")
    (line,) = start.find_lines()
    assert "things.py" in line
    assert "PATCH /things/{id}: expected a scope out of " in line
    assert "things:read, things:write" in line
    assert line.endswith("found things:own")


def test_an_operation_with_a_scope_where_no_resource_authenticates_is_named(start: Start) -> None:
    start.product = [replace(resource, authenticator=None) for resource in start.product]
    lines = start.find_lines()
    assert len(lines) == sum(
        operation.scope is not None
        for resource in (*start.product, start.things)
        for operation in resource.operations
    )
    expected = "GET /things/{id}: expected a resource with an authenticator, found none"
    assert [line for line in lines if line.endswith(expected)] != []


def test_an_operation_behind_another_of_the_same_method_and_path_is_named(start: Start) -> None:
    start.change_things(operations=[*start.operations, replace(start.operation("GET /things"), fast=None)])
    (line,) = start.find_lines()
    assert line.endswith("GET /things: expected one operation of this method and path, found two")


def test_a_handler_that_no_operation_names_is_named(start: Start) -> None:
    removal = start.operation("DELETE /things/{id}")
    start.change_things(operations=[each for each in start.operations if each is not removal])
    (line,) = start.find_lines()
    assert line.startswith("things.py:")
    assert line.endswith("Things.delete: expected an operation that serves it, found none")


def test_a_handler_that_wants_more_than_the_request_is_named(start: Start) -> None:
    async def rename(request: Request, name: str) -> Response:
        """Want what no route gives."""
        return Response(name)

    start.change_things(operations=[*start.operations, Operation("PUT", "/things", rename, {204: None})])
    (line,) = start.find_lines()
    assert line.startswith("test_wiring.py:")
    assert "PUT /things: expected a handler of a request and nothing else" in line
    assert "'name'" in line


@pytest.mark.parametrize(("room", "is_named"), [("orders", True), ("http", False), ("check", False)])
def test_a_module_of_a_resource_that_no_line_brings_in_is_named(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, room: str, is_named: bool
) -> None:
    folder = tmp_path / "svc" / room / "inner"
    folder.mkdir(parents=True)
    (folder / "forgotten.py").touch()
    (tmp_path / "svc" / "at_the_top.py").touch()
    monkeypatch.setattr("svc.check.wiring.PACKAGE", tmp_path / "svc")
    expected = f"svc.{room}.inner.forgotten: expected a line in RESOURCES of svc/app.py, found none"
    assert start.find_lines() == ([f"forgotten.py:1 {expected}"] if is_named else [])


def test_a_class_of_queries_that_no_resource_supplies_is_named(start: Start) -> None:
    number, forgetful = next((n, each) for n, each in enumerate(start.product) if each.queries)
    start.product[number] = replace(forgetful, queries=[])
    names = [getattr(queries, "__name__", "") for queries in forgetful.queries]
    for name, line in zip(names, start.find_lines(), strict=True):
        assert line.endswith(f"{name}: expected a resource that names it among its queries, found none")


def test_a_constraint_of_a_written_table_without_an_answer_is_named(start: Start) -> None:
    constraints = dict(start.things.constraints)
    del constraints["things_size_is_positive"]
    start.change_things(constraints=constraints)
    (line,) = start.find_lines()
    assert "create_thing: expected an entry for things_size_is_positive in a resource's constraints" in line


def test_an_answer_without_a_constraint_is_named(start: Start) -> None:
    start.change_things(constraints={**start.things.constraints, "things_colour_key": OURS})
    (line,) = start.find_lines()
    assert "things_colour_key: expected a constraint that a query may break, found none" in line


def test_nothing_is_said_of_constraints_before_anything_was_proven(start: Start) -> None:
    start.change_things(constraints={})
    assert find_mistakes([MACHINERY, *start.product, start.things], {}) == []


def test_all_that_was_forgotten_is_named_at_once(start: Start) -> None:
    start.change_operation("PATCH /things/{id}", scope="things:own")
    twice = [*start.operations, replace(start.operation("GET /things"), fast=None)]
    start.change_things(operations=twice, constraints={})
    lines = start.find_lines()
    assert len(lines) == 2 + len(PROVEN["create_thing"].constraints)


def test_the_check_of_a_whole_service_finds_it_too(config: Config) -> None:
    skip_before_18(str(config.database_url))
    start = Start()
    start.change_operation("PATCH /things/{id}", scope="things:own")
    report = asyncio.run(check(config, [*start.product, start.things]))
    assert not report.agrees
    (finding,) = [finding for finding in report.findings if finding.kind == "wiring"]
    assert finding.file == "tests/support/things.py"
    assert finding.expected.startswith("PATCH /things/{id}: a scope out of ")
    assert finding.found == "things:own"


async def prove(config: Config) -> tuple[list[Finding], set[str]]:
    """Prove the queries of things; return what was found, and the constraints that they may break."""
    connection = await connect(config)
    try:
        findings, proven, _ = await prove_all(connection, ThingQueries.pairs())
    finally:
        await connection.close()
    breakable = {name for fact in proven.queries.values() for name in fact.constraints}
    return findings, breakable


def test_what_is_taken_as_proven_of_things_can_be_proven(config: Config) -> None:
    skip_before_18(str(config.database_url))
    findings, breakable = asyncio.run(prove(config))
    assert {(finding.query, finding.kind) for finding in findings} == UNFIT
    assert breakable == {name for fact in PROVEN.values() for name in fact.constraints}
