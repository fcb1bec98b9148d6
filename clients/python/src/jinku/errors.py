"""What can go wrong between a client and the service, as exceptions a person can read.

A refusal is an answer and raises nothing by itself; `require_accepted` turns it into `Refused` for
callers that cannot go on.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from jinku.failure import JinkuError
from jinku.v1 import common_pb2

__all__ = ["CallFailed", "JinkuError", "NotAllowed", "Refused", "RequestInvalid",
           "ServiceUnavailable", "describe_reason", "from_rpc_error", "require_accepted"]  # fmt: skip

STATUS_DETAILS = "grpc-status-details-bin"

ADVICE = {
    grpc.StatusCode.UNAVAILABLE: "is the service running, and is this its address?",
    grpc.StatusCode.UNAUTHENTICATED: "use a certificate that the service's CA signed",
    grpc.StatusCode.PERMISSION_DENIED: "this certificate may not do that: ask for the role",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "too much at once: wait and repeat",
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time: repeat, the same command is done once",
    grpc.StatusCode.UNIMPLEMENTED: "the service is older than this client",
}


class CallFailed(JinkuError):
    """A call ended without an answer: its gRPC status, the details, and what to do about it."""

    def __init__(self, code: grpc.StatusCode, message: str, details: tuple[str, ...] = ()) -> None:
        self.code = code
        self.message = message
        self.details = details
        advice = ADVICE.get(code)
        lines = [f"{code.name}: {message}", *(f"  {line}" for line in details)]
        super().__init__("\n".join([*lines, f"  → {advice}"] if advice else lines))


class ServiceUnavailable(CallFailed):
    """The service did not answer. Whether it acted is unknown; the same command may be repeated."""


class NotAllowed(CallFailed):
    """The certificate is not accepted, or may not make this call."""


class RequestInvalid(CallFailed):
    """The request is malformed; `details` names each field."""


class Refused(JinkuError):
    """The service decided against the command. `reasons` says why, in the service's order."""

    def __init__(self, reasons: tuple[common_pb2.Reason, ...]) -> None:
        self.reasons = reasons
        super().__init__("\n".join(describe_reason(reason) for reason in reasons))


CLASSES: dict[grpc.StatusCode, type[CallFailed]] = {
    grpc.StatusCode.UNAVAILABLE: ServiceUnavailable,
    grpc.StatusCode.UNAUTHENTICATED: NotAllowed,
    grpc.StatusCode.PERMISSION_DENIED: NotAllowed,
    grpc.StatusCode.INVALID_ARGUMENT: RequestInvalid,
}


def describe_reason(reason: common_pb2.Reason, language: str = "both") -> str:
    """One reason in a line: number, name, requirement, article, item and the text."""
    texts = {"zh": [reason.text_zh], "en": [reason.text_en]}
    text = " / ".join(filter(None, texts.get(language, [reason.text_zh, reason.text_en])))
    source = " · ".join(filter(None, (reason.requirement, reason.article)))
    item = f" [{reason.item}]" if reason.item else ""
    return f"{reason.code} {reason.name} ({source}){item} {text}".rstrip()


def require_accepted(outcome: common_pb2.Outcome) -> common_pb2.Outcome:
    """Hands an accepted outcome back; raises `Refused` for any other."""
    if outcome.WhichOneof("outcome") != "accepted":
        raise Refused(tuple(outcome.refused.reasons))
    return outcome


def from_rpc_error(error: grpc.RpcError) -> CallFailed:
    """The exception of ours that says the same, with the google.rpc details spelled out."""
    call: Any = error
    code = call.code() if callable(getattr(call, "code", None)) else grpc.StatusCode.UNKNOWN
    message = call.details() if callable(getattr(call, "details", None)) else str(error)
    trailers = call.trailing_metadata() if hasattr(call, "trailing_metadata") else None
    details = tuple(line for key, value in trailers or () if key == STATUS_DETAILS
                    for line in describe_details(value))  # fmt: skip
    return CLASSES.get(code, CallFailed)(code, message or "no message", details)


def describe_details(value: bytes) -> Iterator[str]:
    """One line per google.rpc detail that this client knows."""
    try:
        packed = status_pb2.Status.FromString(value).details
    except DecodeError:
        return
    for detail in packed:
        for kind, describe in DESCRIBERS.items():
            message = kind()
            if detail.Unpack(message):
                yield from describe(message)


def describe_bad_request(message: Any) -> Iterator[str]:
    for violation in message.field_violations:
        yield f"{violation.field}: {violation.description}"


def describe_quota_failure(message: Any) -> Iterator[str]:
    for violation in message.violations:
        yield f"{violation.subject}: {violation.description}"


def describe_error_info(message: Any) -> Iterator[str]:
    extras = ", ".join(f"{key}={message.metadata[key]}" for key in sorted(message.metadata))
    yield f"{message.domain}/{message.reason}" + (f" ({extras})" if extras else "")


def describe_localised(message: Any) -> Iterator[str]:
    # The English text is the call's own message.
    if not message.locale.startswith("en"):
        yield message.message


def describe_retry_info(message: Any) -> Iterator[str]:
    yield f"repeat after {message.retry_delay.ToTimedelta().total_seconds():g} s"


DESCRIBERS: dict[type[Message], Any] = {
    error_details_pb2.BadRequest: describe_bad_request,
    error_details_pb2.QuotaFailure: describe_quota_failure,
    error_details_pb2.ErrorInfo: describe_error_info,
    error_details_pb2.RetryInfo: describe_retry_info,
    error_details_pb2.LocalizedMessage: describe_localised,
}
