"""An answer depends on the bytes of a request, and neither on how they are cut nor on what else goes on."""

import pytest

from tests.driven import talk
from tests.raw import cut, make, statuses


def post_chunked(*trailers: str) -> bytes:
    """A request whose body comes in two chunks, with trailers behind them."""
    head = make("POST /x HTTP/1.1", "Transfer-Encoding: chunked")
    return (
        head + b"3\r\nabc\r\n2\r\nde\r\n0\r\n" + "".join(f"{line}\r\n" for line in (*trailers, "")).encode()
    )


TRAILERS = [
    ["A: b"],
    ["Authorization: Bearer x"],
    ["Expect: 100-continue", "X-Request-Id: mine"],
    ["Upgrade: h2c", "Connection: upgrade"],
]


@pytest.mark.parametrize("trailers", TRAILERS, ids=lambda trailers: trailers[0])
def test_trailers_never_become_headers(trailers: list[str]) -> None:
    after = make("GET /after HTTP/1.1")
    request, plain = post_chunked(*trailers) + after, post_chunked() + after
    expected = talk([plain], short_cut=False)
    assert statuses(expected[0]) == [200, 200]
    for place in range(len(request)):
        assert talk(cut(request, [place]), short_cut=False) == expected
    assert talk(cut(request, range(len(request))), short_cut=False) == expected
