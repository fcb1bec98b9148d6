"""C2SP formats and RFC 6962 proofs, read and checked offline; this is the one place that does it.

Verifier keys and signed notes (https://c2sp.org/signed-note), checkpoints (tlog-checkpoint),
witnesses' cosignatures (tlog-cosignature), inclusion and consistency proofs; layouts in
docs/formats.md. A note that was changed in any character does not open: what base64 would let pass
(spare bits, line breaks) is refused too.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from jinku.failure import JinkuError

# What a key signs: checkpoints of its own log; others' checkpoints with the time (a witness).
ED25519, COSIGNATURE = b"\x01", b"\x04"
SIGNATURE_PREFIX = "— "
HASH_SIZE = 32
KEY_SIZE = 32
NOTE_CHARACTERS_MAX = 1 << 17
SIGNATURES_MAX = 100
SIZE_MAX = (1 << 63) - 1
# Seconds since 1970 to the end of the year 9999, which calendars end with as well.
COSIGNED_AT_MAX = 253_402_300_799
EMPTY_ROOT = hashlib.sha256(b"").digest()


class NoteInvalid(JinkuError):
    """A verifier key, a signed note or a proof is malformed or does not verify."""


class SignatureWrong(NoteInvalid):
    """A note is well formed, and is not signed by whom it has to be, or wrongly."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """Who signs: `name+hex(key id)+base64(what it signs ‖ public key)`."""

    name: str
    key_id: bytes
    public_key: bytes
    kind: bytes = ED25519

    @classmethod
    def parse(cls, text: str, kind: bytes = ED25519) -> VerifierKey:
        """A log's key, or with `COSIGNATURE` a witness's."""
        parts = text.strip().split("+", 2)
        if len(parts) != 3 or not is_key_name(parts[0]):
            raise NoteInvalid("verifier key: expected name+hex+base64")
        name, key_id, encoded = parts
        key = decode_base64(encoded, "verifier key")
        if len(key) != 1 + KEY_SIZE or key[:1] not in {ED25519, COSIGNATURE}:
            raise NoteInvalid("verifier key: not an Ed25519 key")
        if key[:1] != kind:
            whose = {ED25519: "a log's", COSIGNATURE: "a witness's"}
            raise NoteInvalid(f"verifier key: it is {whose[key[:1]]}, not {whose[kind]}")
        made = cls.make(name, key[1:], kind)
        if key_id != made.key_id.hex():
            raise NoteInvalid(
                f"verifier key: id is {key_id}, of this name and key {made.key_id.hex()}"
            )
        return made

    @classmethod
    def make(cls, name: str, public_key: bytes, kind: bytes = ED25519) -> VerifierKey:
        return cls(name, make_key_id(name, public_key, kind), public_key, kind)

    def __str__(self) -> str:
        encoded = base64.b64encode(self.kind + self.public_key).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"

    def signed(self, signature: Signature) -> bool:
        """Whether the signature says that it is of this key; it is not verified."""
        return (signature.name, signature.key_id) == (self.name, self.key_id)


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line of a note."""

    name: str
    key_id: bytes
    # What follows the key id: of an Ed25519 key the signature, of a witness time and signature.
    value: bytes

    @classmethod
    def parse(cls, line: str) -> Signature:
        name, _, encoded = line.removeprefix(SIGNATURE_PREFIX).rpartition(" ")
        if not line.startswith(SIGNATURE_PREFIX) or not is_key_name(name):
            raise NoteInvalid("note: malformed signature line")
        signature = decode_base64(encoded, "note signature")
        if len(signature) < 5:
            raise NoteInvalid("note: malformed signature line")
        return cls(name, signature[:4], signature[4:])

    @property
    def cosigned_at(self) -> int:
        """Of a witness: when it signed, seconds since 1970."""
        return int.from_bytes(self.value[:8])

    def __str__(self) -> str:
        encoded = base64.b64encode(self.key_id + self.value).decode()
        return f"{SIGNATURE_PREFIX}{self.name} {encoded}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A text and who says to have signed it. Nothing is verified yet."""

    # With its last newline.
    text: str
    signatures: tuple[Signature, ...]

    @classmethod
    def parse(cls, note: str) -> Note:
        if len(note) > NOTE_CHARACTERS_MAX:
            raise NoteInvalid(f"note: longer than {NOTE_CHARACTERS_MAX} characters")
        if any(character < " " and character != "\n" for character in note):
            raise NoteInvalid("note: has control characters")
        body, separator, lines = note.rpartition("\n\n")
        if not separator or not lines.endswith("\n"):
            raise NoteInvalid("checkpoint: not a signed note")
        signatures = lines[:-1].split("\n")
        if len(signatures) > SIGNATURES_MAX:
            raise NoteInvalid(f"note: more than {SIGNATURES_MAX} signatures")
        return cls(body + "\n", tuple(Signature.parse(line) for line in signatures))

    def __str__(self) -> str:
        return self.text + "\n" + "".join(map(str, self.signatures))

    def verify(self, key: VerifierKey) -> list[Signature]:
        """The key's signatures, at least one. Every one that says to be of this key has to be right:
        SignatureWrong.
        """
        found = [signature for signature in self.signatures if key.signed(signature)]
        if not found:
            raise SignatureWrong(f"checkpoint: no signature of {key.name} ({key.key_id.hex()})")
        for signature in found:
            message, value = self.text.encode(), signature.value
            if key.kind == COSIGNATURE:
                if not 0 < signature.cosigned_at <= COSIGNED_AT_MAX:
                    raise SignatureWrong(f"checkpoint: {key.name} cosigned it at no time")
                message, value = cosigned_message(self.text, value[:8]), value[8:]
            if not is_signed(key.public_key, value, message):
                raise SignatureWrong(f"checkpoint: the signature of {key.name} is wrong")
        return found


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed tree head."""

    origin: str
    tree_size: int
    root_hash: bytes


@dataclass(frozen=True, slots=True)
class Cosigner:
    """A witness's private key and the name it signs under."""

    name: str
    key: Ed25519PrivateKey

    @property
    def verifier_key(self) -> VerifierKey:
        return VerifierKey.make(self.name, self.key.public_key().public_bytes_raw(), COSIGNATURE)

    def cosign(self, text: str, time_s: int) -> Signature:
        """A cosignature/v1 of a checkpoint's text at this time, seconds since 1970."""
        when = time_s.to_bytes(8, "big")
        value = when + self.key.sign(cosigned_message(text, when))
        return Signature(self.name, self.verifier_key.key_id, value)


def is_key_name(name: str) -> bool:
    return bool(name) and not any(character.isspace() or character == "+" for character in name)


def make_key_id(name: str, public_key: bytes, kind: bytes = ED25519) -> bytes:
    return hashlib.sha256(name.encode() + b"\n" + kind + public_key).digest()[:4]


def decode_base64(text: str, what: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteInvalid(f"{what}: not base64") from error
    # Two texts for one value would be two notes for one checkpoint.
    if base64.b64encode(decoded).decode() != text:
        raise NoteInvalid(f"{what}: not base64 as it is written")
    return decoded


def is_signed(public_key: bytes, signature: bytes, message: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


# -- checkpoints and who cosigned them


def cosigned_message(text: str, when: bytes) -> bytes:
    """What a cosignature/v1 signs: time and checkpoint together."""
    return f"cosignature/v1\ntime {int.from_bytes(when, 'big')}\n{text}".encode()


def open_checkpoint(note: str, key: VerifierKey) -> Checkpoint:
    """The checkpoint, if its log's `key` signed it; signatures of others are left aside."""
    parsed = Note.parse(note)
    parsed.verify(key)
    checkpoint = parse_checkpoint(parsed.text)
    if checkpoint.origin != key.name:
        raise SignatureWrong(f"checkpoint: of log {checkpoint.origin}, signed by {key.name}")
    return checkpoint


def parse_checkpoint(text: str) -> Checkpoint:
    """What a note's text says; whoever signed it, and whether."""
    lines = text.split("\n")
    if len(lines) < 4 or not all(lines[:-1]):
        raise NoteInvalid("checkpoint: origin, size and root are not all there")
    size, root = parse_size(lines[1]), decode_base64(lines[2], "checkpoint root")
    if len(root) != HASH_SIZE:
        raise NoteInvalid(f"checkpoint: root of {len(root)} bytes")
    return Checkpoint(lines[0], size, root)


def parse_size(text: str) -> int:
    """A tree size as C2SP writes it: decimal, no leading zero."""
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(SIZE_MAX))
    if not plain or text != str(int(text)) or int(text) > SIZE_MAX:
        raise NoteInvalid("checkpoint: the size is no number")
    return int(text)


def find_cosigners(note: str, witnesses: Iterable[VerifierKey]) -> dict[VerifierKey, int]:
    """Which of these witnesses cosigned, and when last (seconds since 1970).

    Raises SignatureWrong if a cosignature says to be of one of them and is not.
    """
    parsed = Note.parse(note)
    return {
        key: max(found.cosigned_at for found in parsed.verify(key))
        for key in witnesses
        if any(key.signed(signature) for signature in parsed.signatures)
    }


def require_quorum(
    note: str, witnesses: Sequence[VerifierKey], quorum: int
) -> dict[VerifierKey, int]:
    """`find_cosigners`; SignatureWrong if they are fewer than `quorum` different keys."""
    cosigners = find_cosigners(note, witnesses)
    keys = {key.public_key for key in cosigners}
    if len(keys) < quorum:
        raise SignatureWrong(f"checkpoint: {len(keys)} of {quorum} witnesses cosigned it")
    return cosigners


# -- RFC 6962 hashes and proofs


def hash_leaf(leaf: bytes) -> bytes:
    return hashlib.sha256(b"\x00" + leaf).digest()


def hash_node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()


def compute_root(leaf_hash: bytes, index: int, tree_size: int, proof: Sequence[bytes]) -> bytes:
    """The root that the proof leads to (RFC 9162 section 2.1.3.2); wrong lengths raise."""
    if not 0 <= index < tree_size:
        raise NoteInvalid(f"proof: entry {index} is outside a tree of {tree_size}")
    check_hashes([leaf_hash, *proof])
    node, last, result = index, tree_size - 1, leaf_hash
    for sibling in proof:
        if last == 0:
            raise NoteInvalid("proof: too long")
        if node & 1 or node == last:
            result = hash_node(sibling, result)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            result = hash_node(result, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise NoteInvalid("proof: too short")
    return result


def check_consistency(
    first_size: int,
    second_size: int,
    first_root: bytes,
    second_root: bytes,
    proof: Sequence[bytes],
) -> None:
    """NoteInvalid unless the first tree is the beginning of the second (RFC 9162 section 2.1.4.2).

    From size 0 nothing is proven, so nothing is accepted: the empty tree begins every other, of
    whatever log. (A witness that sees a log for the first time takes it without any proof.)
    """
    if not 0 < first_size <= second_size:
        raise NoteInvalid(f"proof: nothing proves {second_size} entries from {first_size}")
    check_hashes(proof)
    if first_size == second_size:
        if proof or first_root != second_root:
            raise NoteInvalid("proof: one size, and two roots or a proof of something")
        return
    if not proof:
        raise NoteInvalid("proof: too short")
    # A first tree that is complete is a node of the second: its root starts the proof.
    path = list(proof) if first_size & (first_size - 1) else [first_root, *proof]
    node, last = first_size - 1, second_size - 1
    while node & 1:
        node >>= 1
        last >>= 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise NoteInvalid("proof: too long")
        if node & 1 or node == last:
            first, second = hash_node(sibling, first), hash_node(sibling, second)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            second = hash_node(second, sibling)
        node >>= 1
        last >>= 1
    if last:
        raise NoteInvalid("proof: too short")
    if first != first_root:
        raise NoteInvalid(f"proof: it does not begin with the tree of {first_size} entries")
    if second != second_root:
        raise NoteInvalid(f"proof: it does not lead to the tree of {second_size} entries")


def check_hashes(hashes: Iterable[bytes]) -> None:
    for one in hashes:
        if len(one) != HASH_SIZE:
            raise NoteInvalid(f"proof: a hash of {len(one)} bytes")
