"""The JSON protocol of the AWS services that the emulator answers itself, as a WSGI application."""

import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from io import BytesIO
from typing import Any, Protocol

_CREDENTIAL = re.compile(r"Credential=[^/,\s]+/\d{8}/([a-z0-9-]+)/[a-z0-9-]+/aws4_request")

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


class ApiError(Exception):
    """What a service refuses: the code and the message that a client sees."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.status = status


class Operations(Protocol):
    """The operations that the emulator answers itself."""

    def knows(self, target: str) -> bool:
        """Whether it has an operation of that name, such as SageMaker.CreateTrainingJob."""

    def answer(self, target: str, region: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer to one request, None where another application has it; raises ApiError."""


def make_application(operations: Operations, others: Application) -> Application:
    """One application for every service: `operations` where they answer, else `others`."""

    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        # A page in a browser may reach loopback too; it must not start jobs.
        if "HTTP_ORIGIN" in environ:
            error = ApiError("AccessDenied", "the emulator answers no browsers", 403)
            return _send(start_response, _error(error), error.status)
        target = environ.get("HTTP_X_AMZ_TARGET")
        if target is None or not operations.knows(target):
            return _ask(others, environ, start_response)
        body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = BytesIO(body)
        try:
            answer = operations.answer(target, _region(environ), _parse(body))
        except ApiError as refused:
            return _send(start_response, _error(refused), refused.status)
        except Exception:
            logging.getLogger(__name__).exception("the emulator failed at %s", target)
            bug = ApiError("InternalFailure", "the emulator failed; see its output", 500)
            return _send(start_response, _error(bug), bug.status)
        if answer is None:
            return _ask(others, environ, start_response)
        return _send(start_response, answer, 200)

    return application


def _ask(others: Application, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Moto's answer; what it has not learnt yet is an error without a traceback."""
    try:
        return others(environ, start_response)
    except NotImplementedError as error:
        unknown = ApiError("NotImplemented", f"moto: {error}", 501)
        return _send(start_response, _error(unknown), unknown.status)


def _region(environ: Environ) -> str:
    """The region that a request was signed for; nothing else of the signature is looked at."""
    match = _CREDENTIAL.search(environ.get("HTTP_AUTHORIZATION", ""))
    if match is None:
        raise ApiError("MissingAuthenticationTokenException", "the request is not signed", 403)
    return match[1]


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        request = json.loads(body or b"{}")
    except ValueError as error:
        raise ApiError("SerializationException", f"the body is no JSON: {error}") from error
    if not isinstance(request, dict):
        raise ApiError("SerializationException", "the body is no JSON object")
    return request


def _error(error: ApiError) -> dict[str, str]:
    return {"__type": error.code, "message": error.message}


def _send(start_response: StartResponse, answer: Mapping[str, Any], status: int) -> list[bytes]:
    body = json.dumps(answer).encode()
    reason = "OK" if status == 200 else "Error"
    headers = [
        ("Content-Type", "application/x-amz-json-1.1"),
        ("Content-Length", str(len(body))),
    ]
    start_response(f"{status} {reason}", headers)
    return [body]
