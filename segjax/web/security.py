"""Who may talk to the server: the page itself, and with --host only those who have the token."""

import base64
import secrets
from collections.abc import Mapping
from http.cookies import SimpleCookie
from urllib.parse import parse_qs, urlsplit

COOKIE = "segjax_token"
_LOCAL = ("127.0.0.1", "localhost", "[::1]")


class Guard:
    """Rules for requests.

    Another page that is open in the same browser can send requests to localhost. It cannot hide its
    origin, and its host name is not this server's, so both are checked.

    Args:
      token: a secret that every request needs, in the address, as a cookie or as the password of
        basic authentication. "": none is needed, and only addresses of this machine are answered.
    """

    def __init__(self, token: str = "") -> None:
        self.token = token

    def find_fault(self, headers: Mapping[str, str], query: str) -> tuple[int, str] | None:
        """Returns the HTTP status and the reason to refuse a request, or None.

        Args:
          headers: by lower-case name.
          query: of the address.
        """
        host = headers.get("host", "")
        if not self.token and _strip_port(host) not in _LOCAL:
            return 403, f"this server answers to localhost alone, not to {host[:80]!r}"
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            return 403, f"requests from {origin[:80]!r} are refused; open the server's own page"
        if self.token and not self._has_token(headers, query):
            return 401, "the token is missing; open the address that the server printed"
        return None

    def _has_token(self, headers: Mapping[str, str], query: str) -> bool:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        given = [*parse_qs(query).get("token", []), *([cookie.value] if cookie else [])]
        given += _read_password(headers.get("authorization", ""))
        return any(secrets.compare_digest(one.encode(), self.token.encode()) for one in given)


def _read_password(header: str) -> list[str]:
    """Returns the password of a header of basic authentication, if it has one."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        return [base64.b64decode(value, validate=True).decode().partition(":")[2]]
    except ValueError:
        return []


def _strip_port(host: str) -> str:
    """Returns a host without its port."""
    return host.rsplit(":", 1)[0] if host.rsplit(":", 1)[-1].isdecimal() else host


class GuardMiddleware:
    """ASGI middleware that applies a `Guard` to requests and sockets.

    Args:
      app: the application.
      guard: the rules.
    """

    def __init__(self, app, guard: Guard) -> None:
        self.app, self.guard = app, guard

    async def __call__(self, scope, receive, send) -> None:
        """Answers a request, or refuses it."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {
            key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]
        }
        fault = self.guard.find_fault(headers, scope.get("query_string", b"").decode("latin-1"))
        if fault is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 4403, "reason": fault[1][:100]})
        else:
            text = [(b"content-type", b"text/plain; charset=utf-8")]
            await send({"type": "http.response.start", "status": fault[0], "headers": text})
            await send({"type": "http.response.body", "body": fault[1].encode()})
