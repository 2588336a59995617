"""Answers: structs as JSON, problems as problem documents."""

import msgspec
from starlette.responses import Response

from svc.http.problems import Problem

NDJSON = "application/x-ndjson"
CSV = "text/csv"

encode = msgspec.json.Encoder().encode
encode_lines = msgspec.json.Encoder().encode_lines


class Json(Response):
    """A response whose head is made in one go: Starlette's own way costs 3 µs more.

    `lines` are the lines of all its headers; they go out as they are where no ASGI is in between.
    """

    def __init__(self, body: bytes, status: int, lines: bytes) -> None:
        self.status_code = status
        self.background = None
        self.body = body
        self.lines = b"content-type: application/json\r\ncontent-length: %d\r\n%b" % (len(body), lines)

    @property
    def raw_headers(self) -> list[tuple[bytes, bytes]]:  # type: ignore[override]
        """The same headers as ASGI has them."""
        fields = [line.partition(b": ") for line in self.lines.split(b"\r\n")[:-1]]
        return [(name, value) for name, _, value in fields]


def answer(content: object, status: int = 200, lines: bytes = b"") -> Json:
    """A struct as JSON; `lines` are those of more headers, each with its end."""
    return Json(encode(content), status, lines)


def answer_problem(problem: Problem, request_id: bytes) -> Response:
    """A problem document."""
    return Response(
        encode(problem.document(request_id.decode())),
        problem.status,
        {**problem.headers, "Cache-Control": "no-store"},
        "application/problem+json",
    )
