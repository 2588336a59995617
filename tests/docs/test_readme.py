"""The README and docs/configuration.md keep their word: curl lines get the answers shown, every setting is listed."""

import json
import re
import shutil
import subprocess
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
import pytest

from svc.config import VARIABLES, Config
from tests.support import CHECKOUT, Service, make_key

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
CONFIGURATION = (CHECKOUT / "docs/configuration.md").read_text(encoding="utf-8")
CHANGING = ("created_at", "request_id", "title")  # the title of 422 differs between Python's versions


def describe(field: msgspec.structs.FieldInfo) -> str:
    """A setting's row of the table."""
    hint = get_type_hints(Config, include_extras=True)[field.name]
    assert get_origin(hint) is Annotated
    meta = next(m for m in reversed(get_args(hint)) if isinstance(m, msgspec.Meta) and m.description)
    unset = field.default in (None, "", ())
    default = ".data" if field.name == "data_dir" else "–" if unset else str(field.default).lower()
    return f"| `{VARIABLES[field.name]}` | `{default}` | {meta.description} |"


def test_the_table_lists_every_setting_with_its_default() -> None:
    rows = [describe(field) for field in msgspec.structs.fields(Config)]
    assert re.findall(r"^\| `(?:SVC_|DATABASE_URL|OPEN_).*$", CONFIGURATION, re.MULTILINE) == rows


def blank(answer: str) -> Any:
    """An answer without what differs each time."""
    return json.loads(re.sub(rf'"({"|".join(CHANGING)})":"[^"]*"', r'"\1":""', answer))


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_curl_lines_get_the_answers_that_are_shown(service: Service) -> None:
    pairs = re.findall(r"^    \$ (curl .*)\n    (.*)$", README, re.MULTILINE)
    assert len(pairs) == 6
    environment = {"KEY": make_key(service.config)}
    for command, shown in pairs:
        here = command.replace("localhost:8000", service.url)
        ran = subprocess.run(
            ["bash", "-c", here], env=environment, capture_output=True, text=True, check=True
        )
        assert blank(ran.stdout) == blank(shown), command
