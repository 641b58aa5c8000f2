"""What a client is told when something is wrong: OpenAI's error object, and the status that its clients understand."""

from __future__ import annotations

import re
from typing import Any

from starlette.responses import JSONResponse

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
}


# The parameter, perhaps a place in it, with which most of our sentences begin: "messages[0].role is ...".
_NAMED = re.compile(r"[a-z_]+(\[\d+\])?(\.[a-z_]+(\[\d+\])?)*(?=: | (is|has|holds|nests|gives)\b)")


class ApiError(Exception):
    """A refusal: HTTP `status`, a sentence, the parameter it is about, OpenAI's `code`, seconds after which to try
    again."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.retry_after = status, message, code, retry_after
        self.param = None if param is None else param.encode("utf-8", "replace").decode()  # perhaps a client's own word

    def body(self) -> dict[str, Any]:
        """{"error": {"message", "type", "param", "code"}}"""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """It as an answer."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after is not None else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status in (408, 413):  # the rest of the request is not waited for
            headers["Connection"] = "close"
        return JSONResponse(self.body(), self.status, headers)


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The request itself is wrong."""
    return ApiError(400, message, param, code)


def of_value_error(error: ValueError) -> ApiError:
    """A sentence of the engine or of the prompt's rules; most begin with the name of the parameter."""
    message = str(error)
    named = _NAMED.match(message)
    param = {"ids": "prompt"}.get(named.group(), named.group()) if named else None
    code = "context_length_exceeded" if "context holds" in message else None
    return bad(message, param, code)
