"""Who is asking: what the machinery must know of it, and the answers to those who may not."""

from typing import Protocol

from starlette.requests import Request

from svc.http.problems import Problem


class Authenticator(Protocol):
    """Tells whether a request may do what a scope names. A resource supplies it."""

    async def authorize(self, request: Request, scope: str) -> None:
        """Let the request pass. Raises Problem: 401 without a good token, 403 without the scope."""
        ...

    async def knows(self, request: Request) -> bool:
        """Return whether the request has a good token, whatever it may do; False where nobody can tell."""
        ...

    def find_id(self, token: bytes) -> int | None:
        """Return the id of a token that `allows` knows, for the log."""
        ...

    def allows(self, token: bytes, scope: str) -> bool:
        """Return without waiting whether the token is known to hold the scope; False where it may not be."""
        ...


def unauthorized(detail: str, parameters: str = "") -> Problem:
    """Return a 401 with its challenge (RFC 6750, 3)."""
    return Problem(401, detail, headers={"WWW-Authenticate": f'Bearer realm="bareline"{parameters}'})


def forbidden(scope: str) -> Problem:
    """Return a 403 that names the missing scope (RFC 6750, 3.1)."""
    challenge = f'Bearer realm="bareline", error="insufficient_scope", scope="{scope}"'
    return Problem(403, f"The key lacks the scope {scope}", headers={"WWW-Authenticate": challenge})
