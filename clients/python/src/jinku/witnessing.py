"""The witness protocol (https://c2sp.org/tlog-witness): what is sent, and asking a witness.

Checks and state of a witness are in `jinku.witness`; a log asks with `add_checkpoint`.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from jinku import plain_http
from jinku.errors import JinkuError
from jinku.notes import (
    HASH_SIZE,
    Note,
    NoteInvalid,
    Signature,
    VerifierKey,
    decode_base64,
    parse_checkpoint,
    parse_size,
)

PROOF_HASHES_MAX = 63
# Proof, text and as many signatures as a note may have, those of post-quantum keys included.
REQUEST_BYTES_MAX = 1 << 17
SIZE_TYPE = "text/x.tlog.size"
ADD_CHECKPOINT = "add-checkpoint"


class WitnessConflict(JinkuError):
    """The witness has cosigned another size last than we said: `tree_size`."""

    def __init__(self, tree_size: int) -> None:
        super().__init__(f"its last cosigned checkpoint has {tree_size} entries")
        self.tree_size = tree_size


class WitnessInconsistent(JinkuError):
    """The witness does not find its last checkpoint in the tree that it is shown."""


class WitnessRefused(JinkuError):
    """The witness does not know the log or its key, or found the request malformed."""


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """A checkpoint and the proof that it goes on from the size that the witness cosigned last."""

    old_size: int
    proof: tuple[bytes, ...]
    note: str

    def encode(self) -> bytes:
        hashes = [base64.b64encode(one).decode() for one in self.proof]
        return "\n".join([f"old {self.old_size}", *hashes, "", self.note]).encode()

    @classmethod
    def parse(cls, body: bytes) -> AddCheckpoint:
        """NoteInvalid if it has not the form; nothing is verified."""
        try:
            head, separator, note = body.decode().partition("\n\n")
        except UnicodeDecodeError as error:
            raise NoteInvalid("request: not UTF-8") from error
        old, *hashes = head.split("\n")
        if not separator or not old.startswith("old "):
            raise NoteInvalid("request: an old size, proof lines, an empty line and a checkpoint")
        if len(hashes) > PROOF_HASHES_MAX:
            raise NoteInvalid(f"request: more than {PROOF_HASHES_MAX} proof lines")
        proof = tuple(decode_base64(one, "proof") for one in hashes)
        if any(len(one) != HASH_SIZE for one in proof):
            raise NoteInvalid(f"proof: hashes of {HASH_SIZE} bytes")
        return cls(parse_size(old.removeprefix("old ")), proof, note)


def add_checkpoint(
    url: str, key: VerifierKey, request: AddCheckpoint, seconds: float
) -> list[Signature]:
    """Asks the witness whose submission prefix is `url` for cosignatures of `key`, verified.

    Raises:
        NoAnswer: it was not reached, or not in time.
        WitnessConflict, WitnessInconsistent, WitnessRefused: what it said.
        NoteInvalid: it said yes, and gave no cosignature of this key that is right.
    """
    answer = plain_http.fetch(
        f"{url.rstrip('/')}/{ADD_CHECKPOINT}", body=request.encode(), seconds=seconds
    )
    if answer.status == 200:
        text = Note.parse(request.note).text
        return Note.parse(f"{text}\n{decode_text(answer)}").verify(key)
    told = parse_conflict(answer) if answer.status == 409 else None
    if answer.status == 422 or (answer.status == 409 and is_same_size(request, told)):
        raise WitnessInconsistent("it does not find its last checkpoint in this journal")
    if told is not None:
        raise WitnessConflict(told)
    raise WitnessRefused(f"it answers {answer.status}: {describe_refusal(answer.status)}")


def parse_conflict(answer: plain_http.Answer) -> int | None:
    """The size that a 409 names; none if it names none."""
    if answer.content_type.partition(";")[0].strip() != SIZE_TYPE or not answer.body:
        return None
    return parse_size(decode_text(answer).removesuffix("\n"))


def is_same_size(request: AddCheckpoint, told: int | None) -> bool:
    """Whether a 409 says that the witness has another root at the size it is shown: it was asked from
    that size, and names no other. So until version 1.0.0 of the protocol; since then it is a 422.
    """
    size = parse_checkpoint(Note.parse(request.note).text).tree_size
    return request.old_size == size and told in {None, size}


def fetch_latest(url: str, origin: str, seconds: float) -> str:
    """The latest checkpoint of a log that the witness with this monitoring prefix cosigned.

    A note, nothing of it verified. Raises NoAnswer, WitnessRefused, NoteInvalid.
    """
    path = f"{url.rstrip('/')}/{hash_origin(origin)}/checkpoint"
    answer = plain_http.fetch(path, seconds=seconds)
    if answer.status != 200:
        raise WitnessRefused(f"it answers {answer.status}")
    return decode_text(answer)


def hash_origin(origin: str) -> str:
    return hashlib.sha256(origin.encode()).hexdigest()


def decode_text(answer: plain_http.Answer) -> str:
    try:
        return answer.body.decode()
    except UnicodeDecodeError as error:
        raise NoteInvalid("answer: not UTF-8") from error


def describe_refusal(status: int) -> str:
    """What an operator can do about it. What the witness wrote is not quoted."""
    return {
        400: "the request is malformed to it",
        403: "it trusts another key for this log; give it the verifier key",
        404: "it does not know this log, or this is not its address; give it the verifier key",
    }.get(status, "see its log")
