"""What can be wrong with something that is to prove something, one line in each language."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from jinku import notes
from jinku.failure import JinkuError, plain

# Of what is told beside the fault.
PART_CHARACTERS_MAX = 500


class Fault(Enum):
    """Why it proves nothing: Chinese, English."""

    # What was handed in.
    NO_RECEIPT = "不是凭证文件, 或已残缺", "no receipt, or cut off"
    NO_PACKAGE = "不是证据包, 或已残缺", "no evidence package, or cut off"
    TOO_LARGE = "超出允许的大小", "larger than it may be"
    KEY_MALFORMED = "验证公钥的写法不对", "the verifier key is malformed"
    # The checkpoint and who signed it.
    CHECKPOINT_MALFORMED = "检查点的格式不对", "the checkpoint is malformed"
    OTHER_LEDGER = "属于另一个域的账本, 不归该公钥", "of the ledger of another realm than this key"
    OTHER_KEY = "不是由该公钥的主人签名", "not signed by the owner of this key"
    SIGNATURE_WRONG = "检查点的签名不对: 内容被改动", "the checkpoint's signature is wrong: altered"
    NOT_WITNESSED = "见证签名不足或不对", "witnesses' cosignatures are missing or wrong"
    # Entries and their proofs.
    ENTRY_MALFORMED = "记录的格式不对", "the entry is malformed"
    PROOF_MALFORMED = "证明的格式不对", "the proof is malformed"
    NOT_IN_JOURNAL = (
        "记录不在签名的账本中: 记录或证明被改动",
        ("the entry is not in the signed journal: entry or proof was altered"),
    )
    EVENTS_ALTERED = "事件被改动", "the events were altered"
    NOT_ITS_BEGINNING = (
        "较早的检查点不是该账本的开头: 账本被改写或分叉",
        ("an earlier checkpoint does not begin this journal: it was rewritten, or split"),
    )
    # What only a package has.
    FILE_ALTERED = "文件与账本记录不符: 被改动", "the file is not what the entries say: altered"
    FILE_MISSING = "缺少文件", "a file is missing"
    FILE_UNKNOWN = "多出文件", "there is a file too many"
    ENTRY_MISSING = "缺少记录", "an entry is missing"
    ENTRY_UNRELATED = "夹有无关的记录", "an entry that has nothing to do with it"
    GAP = (
        "前后记录不衔接: 有记录被抽走或顺序不对",
        ("the entries do not follow from each other: one was taken out, or the order is wrong"),
    )
    COMMITMENT_WRONG = (
        "个人信息与账本中的承诺值不符",
        ("a personal value is not the one that the journal commits to"),
    )
    ERASED = "含有已删除者的个人信息", "it holds a value of a person who was erased"
    OTHER_VERSION = "版本与本验证程序不同", "of another version than this verifier"
    RECEIPT_CONTRADICTS = "凭证与证据包不一致", "the receipt contradicts the package"

    @property
    def zh(self) -> str:
        return str(self.value[0])

    @property
    def en(self) -> str:
        return str(self.value[1])


class NotProven(JinkuError):
    """It proves nothing: which fault, where, and the particulars.

    The last two may be words of whoever made what is judged: they are told in one line, shortened.
    """

    def __init__(self, fault: Fault, where: str = "", detail: str = "") -> None:
        self.fault, self.where, self.detail = fault, where, detail
        said = f"{fault.zh} / {fault.en}"
        parts = (shorten(where), said, shorten(detail))
        super().__init__(plain(": ".join(part for part in parts if part)))


def shorten(text: str) -> str:
    return text if len(text) <= PART_CHARACTERS_MAX else f"{text[:PART_CHARACTERS_MAX]}…"


def parse_key(text: str, kind: bytes = notes.ED25519) -> notes.VerifierKey:
    """A log's verifier key, or a witness's."""
    try:
        return notes.VerifierKey.parse(text, kind)
    except notes.NoteInvalid as error:
        raise NotProven(Fault.KEY_MALFORMED, detail=str(error)) from error


def open_checkpoint(
    note: str, key: notes.VerifierKey, where: str = "checkpoint"
) -> notes.Checkpoint:
    """The checkpoint that this key signed; NotProven tells another ledger, another key and an
    altered text apart.
    """
    try:
        parsed = notes.Note.parse(note)
        checkpoint = notes.parse_checkpoint(parsed.text)
    except notes.NoteInvalid as error:
        raise NotProven(Fault.CHECKPOINT_MALFORMED, where, str(error)) from error
    if checkpoint.origin != key.name:
        raise NotProven(Fault.OTHER_LEDGER, where, f"{checkpoint.origin}, {key.name}")
    if not any(key.signed(signature) for signature in parsed.signatures):
        raise NotProven(Fault.OTHER_KEY, where, f"{key.name}+{key.key_id.hex()}")
    try:
        return notes.open_checkpoint(note, key)
    except notes.NoteInvalid as error:
        raise NotProven(Fault.SIGNATURE_WRONG, where, str(error)) from error


def find_cosigners(
    note: str, witnesses: Sequence[str], quorum: int, where: str = "checkpoint"
) -> dict[notes.VerifierKey, int]:
    """Which of the witnesses with these verifier keys cosigned, and when (seconds since 1970), at
    least `quorum` of them.
    """
    keys = [parse_key(key, notes.COSIGNATURE) for key in witnesses]
    try:
        return notes.require_quorum(note, keys, quorum)
    except notes.NoteInvalid as error:
        raise NotProven(Fault.NOT_WITNESSED, where, str(error)) from error


def check_inclusion(
    leaf: bytes,
    index: int,
    checkpoint: notes.Checkpoint,
    proof: Sequence[bytes],
    where: str = "proof",
) -> None:
    """NotProven unless this leaf stands at this place of the checkpoint's journal."""
    try:
        root = notes.compute_root(notes.hash_leaf(leaf), index, checkpoint.tree_size, proof)
    except notes.NoteInvalid as error:
        raise NotProven(Fault.NOT_IN_JOURNAL, where, str(error)) from error
    if root != checkpoint.root_hash:
        raise NotProven(Fault.NOT_IN_JOURNAL, where)
