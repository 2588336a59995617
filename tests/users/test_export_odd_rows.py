"""GET /users/export, where others put in rows that break the rules."""

import csv
import io
import json

from tests.support.databases import Databases
from tests.support.odd_rows import Filled, parse, read_rows, serve


def test_an_export_has_them_all(databases: Databases) -> None:
    with serve(databases) as odd:
        compare(odd)


def compare(odd: Filled) -> None:
    """Compare both forms of an export with the table."""
    rows = read_rows(odd)
    answer = odd.client.get("/users/export").raise_for_status()
    found = [parse(json.loads(line)) for line in answer.text.splitlines()]
    assert found == [*rows.values()]
    assert answer.headers["x-last-id"] == str(found[-1]["id"])
    text = odd.client.get("/users/export", headers={"Accept": "text/csv"}).raise_for_status().text
    cells = [*csv.DictReader(io.StringIO(text, newline=""))]
    assert [(int(row["id"]), row["email"]) for row in cells] == [(i, row["email"]) for i, row in rows.items()]
    assert [parse(row)["created_at"] for row in cells] == [row["created_at"] for row in rows.values()]
