"""What the documents say is so: links, names of files, excerpts, routes, codes, commands, counts."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.figures import lines_of
from svc.check.command import find_structs, read_pairs
from svc.http.problems import STATUSES
from svc.migrations import read_files
from tests.support import CHECKOUT, CONSTRAINTS, RESOURCES
from tests.support.broken_rules import BROKEN
from tests.support.raw import CLIENTS

PATHS = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/*.md"), CHECKOUT / "bench/README.md"]
DOCUMENTS = {
    path.relative_to(CHECKOUT).as_posix(): path.read_text(encoding="utf-8") for path in sorted(PATHS)
}
GUIDE = "docs/your-own-table.md"
"""Names files that its reader makes."""

README_WORDS = 1000
CORE_LINES = 4000
OWN_LINES = 480

OWN = (
    "svc/users/__init__.py",
    "svc/users/constraints.py",
    "svc/users/handlers.py",
    "svc/users/rows.py",
    "svc/users/scopes.py",
    "svc/users/structs.py",
    "queries/users.sql",
)
"""The users without lists, export, import and seed."""

CORE = (*OWN, "svc/http/*.py", "svc/postgres/*.py")
"""What serves one table."""


def read_text(path: str) -> str:
    """Return a file of the checkout."""
    return (CHECKOUT / path).read_text(encoding="utf-8")


def find_links(text: str) -> list[str]:
    """Return where the links of a document lead, but for those to other hosts."""
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]


def find_anchors(text: str) -> set[str]:
    """Return the anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def find_excerpts(text: str) -> Iterator[tuple[str, str]]:
    """Give each line of code between `<!-- from FILE -->` and the next comment, after its file."""
    for path, excerpt in re.findall(r"<!-- from (\S+) -->\n(.*?)(?=<!--)", text, re.S):
        yield from ((path, line.strip()) for line in excerpt.split("\n") if line.strip())


def test_the_readme_is_short() -> None:
    assert len(DOCUMENTS["README.md"].split()) <= README_WORDS


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files_and_headings_that_are_there(name: str) -> None:
    lost = []
    for link in find_links(DOCUMENTS[name]):
        path, _, anchor = link.partition("#")
        target = (CHECKOUT / name).parent / path if path else CHECKOUT / name
        if not target.exists() or (anchor and anchor not in find_anchors(target.read_text(encoding="utf-8"))):
            lost.append(link)
    assert lost == []


@pytest.mark.parametrize("name", sorted(DOCUMENTS.keys() - {GUIDE}))
def test_files_that_are_named_are_there(name: str) -> None:
    named = set(re.findall(r"\b(?:svc|queries|tests)/[\w/]+\.(?:py|sql)\b", DOCUMENTS[name]))
    assert sorted(path for path in named if not (CHECKOUT / path).is_file()) == []


def test_excerpts_are_in_their_files() -> None:
    excerpts = [excerpt for text in DOCUMENTS.values() for excerpt in find_excerpts(text)]
    assert excerpts
    assert [(path, line) for path, line in excerpts if line not in read_text(path)] == []


def test_what_serves_one_table_is_as_short_as_the_readme_says() -> None:
    said = re.search(
        r"under ([\d,]+) lines of\s+code, and the users' own part under (\d+)", DOCUMENTS["README.md"]
    )
    assert said
    assert [int(number.replace(",", "")) for number in said.groups()] == [CORE_LINES, OWN_LINES]
    assert lines_of(CORE) < CORE_LINES
    assert lines_of(OWN) < OWN_LINES


def test_what_the_check_counts_is_what_the_documents_show() -> None:
    pairs, _ = read_pairs(RESOURCES)
    structs, migrations = find_structs(pairs, RESOURCES), read_files()
    counted = f"{len(pairs)} queries, {len(structs)} structs, {len(migrations)} migrations: all agree"
    shown = [line for text in DOCUMENTS.values() for line in re.findall(r"\d+ queries, .*: all agree", text)]
    assert set(shown) == {counted}


def test_the_table_of_routes_is_whole() -> None:
    rows = re.findall(r"^\| `([A-Z]+) (/\S*)` \| (?:`(\S+)`|–) \|", DOCUMENTS["docs/api.md"], re.M)
    operations = [operation for resource in RESOURCES for operation in resource.operations]
    assert len(rows) == len(operations)
    assert {*rows} == {(each.method, each.path, each.scope or "") for each in operations}


def test_the_table_of_codes_is_whole() -> None:
    sources = "".join(path.read_text(encoding="utf-8") for path in Path(CHECKOUT / "svc").rglob("*.py"))
    codes = {*re.findall(r'\bcode="([a-z-]+)"', sources), *(code for _, code in STATUSES.values())}
    codes |= {refusal.code for refusal in CONSTRAINTS.values() if refusal}
    rows = re.findall(r"^\| `([a-z-]+)` \| \d{3} \|", DOCUMENTS["docs/api.md"], re.M)
    assert sorted(rows) == sorted(codes)


def test_contributors_run_what_the_makefile_and_ci_run() -> None:
    recipes = re.findall(r"^\t(.*)$", read_text("Makefile"), re.M)
    commands = [part for recipe in recipes for part in recipe.split(" && ")]
    lines = [line for line in read_text(".ci/run").split("\n") if line.startswith('"$bin/')]
    commands += [re.sub(r'"\$bin/([\w-]+)"', r".venv/bin/\1", line) for line in lines]
    assert len(commands) > 15
    assert [command for command in commands if command not in DOCUMENTS["CONTRIBUTING.md"]] == []


def test_the_broken_rules_are_those_that_are_broken() -> None:
    page = (CHECKOUT / "docs/why-not-an-orm.md").read_text(encoding="utf-8")
    _, _, rest = page.partition("<!-- broken rules -->\n")
    lines = rest.partition("\n\n")[0].splitlines()[2:]
    told = [cell.strip() for line in lines for cell in line.strip("|").split("|") if cell.strip()]
    assert sorted(told) == sorted(BROKEN)


def test_the_table_of_clients_has_all_whose_heads_are_sent() -> None:
    _, _, rest = DOCUMENTS["docs/fast-path.md"].partition("<!-- clients -->\n")
    rows = re.findall(r"^\| ([^|]+) \| [^|]+ \| taken \|$", rest.partition("\n\n")[0], re.M)
    assert sorted(rows) == sorted(CLIENTS)
