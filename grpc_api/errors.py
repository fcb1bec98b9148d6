"""What a caller is told who gets no answer: a gRPC code with google.rpc details in two languages.

Refusals of a procedure are answers and never come here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, Protocol

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

DOMAIN = "jinku"
# Details travel as trailing metadata, which peers limit to 8 KiB by default.
VIOLATIONS_MAX = 16
DESCRIPTION_CHARACTERS_MAX = 160


class FieldViolation(Protocol):
    """What the guard found about one field: its path and what is wrong, never its value."""

    @property
    def field(self) -> str: ...

    @property
    def description(self) -> str: ...


class CallRefused(Exception):
    """The call ends here with this code; nothing was submitted, or nobody knows what came of it."""

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        text_en: str,
        text_zh: str,
        *,
        details: Sequence[Message] = (),
        metadata: dict[str, str] | None = None,
    ) -> None:
        """Args:
        reason: machine-readable, UPPER_SNAKE_CASE, stable; goes into ErrorInfo and the metrics.
        """
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.text_en = text_en
        self.text_zh = text_zh
        self.details = tuple(details)
        self.metadata = metadata or {}

    def status(self) -> status_pb2.Status:
        code: int = self.code.value[0]
        details: list[Message] = [
            error_details_pb2.ErrorInfo(reason=self.reason, domain=DOMAIN, metadata=self.metadata),
            error_details_pb2.LocalizedMessage(locale="en", message=self.text_en),
            error_details_pb2.LocalizedMessage(locale="zh-CN", message=self.text_zh),
            *self.details,
        ]
        return status_pb2.Status(code=code, message=self.text_en, details=map(pack, details))


def pack(message: Message) -> AnyMessage:
    packed = AnyMessage()
    packed.Pack(message)
    return packed


async def abort(context: grpc.aio.ServicerContext[Any, Any], refused: CallRefused) -> NoReturn:
    """Ends the call; gRPC raises through our frames."""
    status = rpc_status.to_status(refused.status())
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort returned")


def retry_in(seconds: float) -> error_details_pb2.RetryInfo:
    delay = Duration()
    delay.FromNanoseconds(int(seconds * 1e9))
    return error_details_pb2.RetryInfo(retry_delay=delay)


def unauthenticated(text_en: str, text_zh: str) -> CallRefused:
    return CallRefused(
        grpc.StatusCode.UNAUTHENTICATED, "CERTIFICATE_NOT_ACCEPTED", text_en, text_zh
    )


def permission_denied(reason: str, text_en: str, text_zh: str, rpc: str) -> CallRefused:
    return CallRefused(
        grpc.StatusCode.PERMISSION_DENIED, reason, text_en, text_zh, metadata={"rpc": rpc}
    )


def malformed(message_name: str) -> CallRefused:
    return CallRefused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_MALFORMED",
        f"These bytes are not a {message_name}.",
        f"收到的字节不是 {message_name}。",
    )


def invalid(violations: Iterable[FieldViolation]) -> CallRefused:
    found = list(violations)
    request = error_details_pb2.BadRequest(
        field_violations=[
            error_details_pb2.BadRequest.FieldViolation(
                field=violation.field[:DESCRIPTION_CHARACTERS_MAX],
                description=violation.description[:DESCRIPTION_CHARACTERS_MAX],
            )
            for violation in found[:VIOLATIONS_MAX]
        ]
    )
    return CallRefused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "FIELDS_INVALID",
        f"{len(found)} field violation(s), see the details.",
        f"{len(found)} 处字段不符合要求，见详情。",
        details=[request],
        metadata={"violations": str(len(found))},
    )


def queue_full() -> CallRefused:
    return CallRefused(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "QUEUE_FULL",
        "Too many commands are waiting; nothing was done. Send the same bytes again later.",
        "等待处理的命令过多，本次未执行。请稍后重发同一请求。",
        details=[retry_in(1.0)],
    )


def ledger_busy() -> CallRefused:
    return CallRefused(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "LEDGER_BUSY",
        "Too many calls read the ledger at the same time. Send the same bytes again later.",
        "同时读取账本的调用过多。请稍后重发同一请求。",
        details=[retry_in(1.0)],
    )


def too_many(kind: str) -> CallRefused:
    return CallRefused(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        f"TOO_MANY_{kind.upper()}",
        f"The service's limit of {kind} at the same time is reached.",
        f"同时进行的调用数已达上限（{kind}）。",
        details=[retry_in(1.0)],
    )


def draining() -> CallRefused:
    return CallRefused(
        grpc.StatusCode.UNAVAILABLE,
        "DRAINING",
        "The service is about to stop and takes no new calls.",
        "服务即将停止，不再接受新的调用。",
        details=[retry_in(2.0)],
    )


def stopped() -> CallRefused:
    return CallRefused(
        grpc.StatusCode.UNAVAILABLE,
        "LEDGER_STOPPED",
        "The ledger has stopped. What came of the command is not known: "
        "send the same bytes again when the service is back.",
        "账本已停止，命令结果未知。服务恢复后请重发同一请求。",
    )


def late() -> CallRefused:
    return CallRefused(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "NOT_DURABLE_IN_TIME",
        "The command was taken and its deadline passed first: send the same bytes again.",
        "命令已受理，但在期限内未完成。请重发同一请求。",
    )


def request_late() -> CallRefused:
    return CallRefused(
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "REQUEST_LATE",
        "The call was opened and no request came in time.",
        "调用已建立，但未在限定时间内收到请求。",
    )


def message_missing() -> CallRefused:
    return CallRefused(
        grpc.StatusCode.INVALID_ARGUMENT,
        "REQUEST_MISSING",
        "The call carried no request.",
        "调用未携带请求。",
    )


def internal(incident_id: str) -> CallRefused:
    return CallRefused(
        grpc.StatusCode.INTERNAL,
        "INTERNAL",
        f"An error of the service, recorded as incident {incident_id}.",
        f"服务内部错误，事件编号 {incident_id}。",
        metadata={"incident": incident_id},
    )
