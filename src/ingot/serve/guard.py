"""Who may speak with the server: everything that is decided before a request reaches its endpoint. Plain ASGI, so that
it holds for every path, and streams pass through it as they are."""

from __future__ import annotations

import hmac
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ingot.serve.errors import ApiError
from ingot.serve.limits import most

PROBES = ("/health", "/ready")  # tell nothing but that the server lives: no key is asked for
LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Access:
    """`hosts`: names in the Host header that are answered (None: all); `key`: what clients must send (None: nothing);
    `origins`: web pages that may ask ("*": all; "localhost": those that this machine serves, on any port)."""

    hosts: Collection[str] | None = LOOPBACK
    key: str | None = None
    origins: Collection[str] = ()


class Guard:
    """Refuses requests for a foreign host, from a foreign page, without the key, or too many at a time."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self.app, self.access, self.open = app, access, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        send = self._with_cors(headers, send)
        try:
            answer = self._checked(scope, headers)
        except ApiError as error:
            answer = error.response()
        if answer is not None:
            await answer(scope, receive, send)
            return
        self.open += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.open -= 1

    def _checked(self, scope: Scope, headers: Headers) -> Response | None:
        """None to go on; the answer to a browser's question whether it may; ApiError."""
        if sum(len(name) + len(value) for name, value in scope["headers"]) > most("header"):
            raise ApiError(431, f"the head has more than {most('header'):,} bytes, which are the most")
        self._check_host(headers)
        self._check_origin(headers)
        if scope["method"] == "OPTIONS" and "access-control-request-method" in headers:
            return Response(status_code=200)
        if scope["path"] not in PROBES:
            self._check_key(headers)
        if self.open >= most("connections"):
            raise ApiError(503, f"{self.open} requests are open, which is the most", retry_after=5)
        return None

    def _check_host(self, headers: Headers) -> None:
        """A web page can point a name of its own at 127.0.0.1 (DNS rebinding); its Host then is that name."""
        if self.access.hosts is not None and _host(headers.get("host", "")) not in self.access.hosts:
            raise ApiError(403, "the Host of the request is not one that this server has; use localhost", code="host")

    def _check_origin(self, headers: Headers) -> None:
        origin = headers.get("origin")
        if origin is None or self._allows(origin) or origin.partition("://")[2] == headers.get("host"):
            return
        raise ApiError(
            403, "web pages of this origin may not ask here; ingot serve --cors ORIGIN allows one", code="cors"
        )

    def _check_key(self, headers: Headers) -> None:
        if self.access.key is None:
            return
        scheme, _, token = headers.get("authorization", "").partition(" ")
        given = token.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode(), self.access.key.encode()):
            message = "the API key is missing or wrong; send it as Authorization: Bearer KEY"
            raise ApiError(401, message, code="invalid_api_key")

    def _allows(self, origin: str) -> bool:
        allowed = self.access.origins
        return "*" in allowed or origin in allowed or ("localhost" in allowed and _host_of(origin) in LOOPBACK)

    def _with_cors(self, headers: Headers, send: Send) -> Send:
        origin = headers.get("origin")
        if origin is None or not self._allows(origin):
            return send
        more = {
            "access-control-allow-origin": origin,
            "access-control-allow-methods": "GET, POST",
            "access-control-allow-headers": "authorization, content-type, x-api-key",
            "vary": "origin",
        }

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                pairs: list[Any] = [(key.encode(), value.encode()) for key, value in more.items()]
                message["headers"] = [*message.get("headers", ()), *pairs]
            await send(message)

        return sent


def _host(header: str) -> str:
    """The name in a Host header, without its port; "" for one that is none."""
    return _host_of(f"//{header}")


def _host_of(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""
