"""What every request passes before it reaches the application, and every answer on its way out.

There is no sign-in on loopback yet, so the browser is the way in: another site's page must neither
read from here (Host, framing, script) nor write to here (origin).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.web.problems import problem

LARGEST_BODY: Final = 1024 * 1024
"""Bytes of a request to our own pages and API; a report has a hundredth of that."""

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
}
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """Checks origin, host and size of requests, and sets the security headers of answers.

    Parameters
    ----------
    mounted : iterable of str
        Paths of mounted applications, which set their own limits and policies.
    hosts : iterable of str
        Host names that are answered; empty for all. A page of another site that rebinds its name
        to 127.0.0.1 is stopped here.
    """

    def __init__(
        self, app: ASGIApp, *, mounted: Iterable[str] = (), hosts: Iterable[str] = ()
    ) -> None:
        self._app = app
        self._mounted = tuple(mounted)
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path: str = scope["path"]
        own = not any(path == m or path.startswith(f"{m}/") for m in self._mounted)

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**_HEADERS, **(_PAGE_HEADERS if own else {})}.items():
                    headers.setdefault(name, value)
            await send(message)

        headers = Headers(scope=scope)
        if self._hosts and _host(headers) not in self._hosts:
            answer = problem(421, "this host name is not served here", code="host")
            await answer(scope, receive, sealed)
        elif scope["method"] not in _SAFE and _is_foreign(headers):
            answer = problem(403, "requests from pages of other sites are refused", code="origin")
            await answer(scope, receive, sealed)
        elif own and scope["method"] not in _SAFE:
            body = await _body(headers, receive)
            if body is None:
                answer = problem(413, f"a body has at most {LARGEST_BODY} bytes", code="too-large")
                await answer(scope, receive, sealed)
            else:
                await self._app(scope, _Replay(body, receive), sealed)
        else:
            await self._app(scope, receive, sealed)


class _Replay:
    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is not None:
            body, self._body = self._body, None
            return {"type": "http.request", "body": body, "more_body": False}
        return await self._receive()


async def _body(headers: Headers, receive: Receive) -> bytes | None:
    declared = headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > LARGEST_BODY:
        return None
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return bytes(body)
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            return None
        if not message.get("more_body", False):
            return bytes(body)


def _host(headers: Headers) -> str | None:
    return urlsplit(f"//{headers.get('host', '')}").hostname


def _is_foreign(headers: Headers) -> bool:
    # A browser says where a request comes from; other programs send neither header.
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in {"same-origin", "none"}
    origin = headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != headers.get("host")
