"""What is handed in as a receipt and is none, is another's, or was changed: told in both languages,
with the same exit code, by the command and by the verifier in one file.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from jinku import receipts
from jinku.event.v1.entry_pb2 import EntryHeader
from jinku.evidence import standalone
from jinku.main import main
from jinku.notes import VerifierKey
from jinku.v1.common_pb2 import Receipt
from jinku.verdicts import Fault
from made_receipt import make_receipt
from signed_tree import KEY, NAME, PUBLIC, cosign, sign, tree_hash, witness_key

WITNESS, SEED = "witness.example/w1", b"w" * 32
OTHER_REALM = str(VerifierKey.make("bank.example/realm-2", PUBLIC))
OTHER_KEY = str(VerifierKey.make(NAME, bytes(range(1, 33))))


def changed(change: Callable[[Receipt], object]) -> bytes:
    receipt = make_receipt()
    change(receipt)
    return receipt.SerializeToString(deterministic=True)


def with_header(**fields: object) -> bytes:
    def change(receipt: Receipt) -> None:
        header = EntryHeader.FromString(receipt.header)
        for name, value in fields.items():
            setattr(header, name, value)
        receipt.header = header.SerializeToString()

    return changed(change)


def with_note(note: str) -> bytes:
    return changed(lambda receipt: setattr(receipt, "checkpoint", note))


WHOLE = changed(lambda receipt: None)
NOTE = make_receipt().checkpoint
SIGNATURE = NOTE.rpartition(" ")[2].strip()
ALTERED = base64.b64encode(bytes([*base64.b64decode(SIGNATURE)[:-1], 0])).decode()
WRONG: dict[str, tuple[bytes, str, Fault]] = {
    "nothing": (b"", KEY, Fault.NO_RECEIPT),
    "a text": (b"not a receipt at all\n", KEY, Fault.NO_RECEIPT),
    "another file": (b"\x7fELF" + bytes(400), KEY, Fault.NO_RECEIPT),
    "a key": (KEY.encode(), KEY, Fault.NO_RECEIPT),
    "cut off": (WHOLE[:-1], KEY, Fault.NO_RECEIPT),
    "cut in half": (WHOLE[: len(WHOLE) // 2], KEY, Fault.NO_RECEIPT),
    "with more behind it": (WHOLE + b"\x32\x01x", KEY, Fault.NO_RECEIPT),
    "twice": (WHOLE + WHOLE, KEY, Fault.NO_RECEIPT),
    "a part only": (Receipt(header=b"\x08\x01").SerializeToString(), KEY, Fault.NO_RECEIPT),
    "too large": (changed(lambda one: setattr(one, "events", bytes(4096))), KEY, Fault.TOO_LARGE),
    "no key": (WHOLE, "bank.example+nonsense", Fault.KEY_MALFORMED),
    "a witness's key": (WHOLE, witness_key(WITNESS, SEED), Fault.KEY_MALFORMED),
    "another realm's key": (WHOLE, OTHER_REALM, Fault.OTHER_LEDGER),
    "another key": (WHOLE, OTHER_KEY, Fault.OTHER_KEY),
    "no note": (with_note("a text\n"), KEY, Fault.CHECKPOINT_MALFORMED),
    "another root": (
        with_note(NOTE.replace(NOTE.split("\n")[2], base64.b64encode(bytes(32)).decode())),
        KEY,
        Fault.SIGNATURE_WRONG,
    ),
    "another size": (with_note(NOTE.replace("\n9\n", "\n8\n")), KEY, Fault.SIGNATURE_WRONG),
    "another signature": (with_note(NOTE.replace(SIGNATURE, ALTERED)), KEY, Fault.SIGNATURE_WRONG),
    "another tree": (with_note(sign(9, tree_hash([b"x"] * 9))), KEY, Fault.NOT_IN_JOURNAL),
    "another place": (with_header(index=4), KEY, Fault.NOT_IN_JOURNAL),
    "beyond the tree": (with_header(index=9), KEY, Fault.NOT_IN_JOURNAL),
    "another principal": (with_header(principal="nobody"), KEY, Fault.NOT_IN_JOURNAL),
    "no header": (changed(lambda one: setattr(one, "header", b"\xff")), KEY, Fault.ENTRY_MALFORMED),
    "another digest": (
        changed(lambda one: setattr(one, "events_digest", bytes(32))), KEY, Fault.NOT_IN_JOURNAL,
    ),
    "half a digest": (
        changed(lambda one: setattr(one, "events_digest", bytes(16))), KEY, Fault.ENTRY_MALFORMED,
    ),
    "a shorter proof": (
        changed(lambda one: one.inclusion_proof.pop()), KEY, Fault.NOT_IN_JOURNAL,
    ),
    "another proof": (
        changed(lambda one: one.inclusion_proof.reverse()), KEY, Fault.NOT_IN_JOURNAL,
    ),
    "other events": (
        changed(lambda one: setattr(one, "events", one.events + b"\x0a\x00")),
        KEY,
        Fault.EVENTS_ALTERED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content, key, fault = WRONG[what]
    file = tmp_path / "receipt.bin"
    file.write_bytes(content)
    with pytest.raises(receipts.ReceiptInvalid) as refused:
        receipts.verify(receipts.load(file), key)
    assert refused.value.fault is fault
    answer = CliRunner().invoke(main, ["ledger", "verify", str(file), "--key", key])
    assert answer.exit_code == 4
    assert standalone.main([str(file), "--key", key]) == 4
    for said in (answer.output, capsys.readouterr().err):
        assert "not valid / 无效" in said
        assert fault.zh in said
        assert fault.en in said
        assert "有效: " not in said


def test_the_whole_receipt_is_valid(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The control."""
    file, key_file = tmp_path / "receipt.bin", tmp_path / "realm.key"
    file.write_bytes(WHOLE)
    key_file.write_text(KEY + "\n", encoding="utf-8")
    answer = CliRunner().invoke(main, ["ledger", "verify", str(file), "--key", str(key_file)])
    assert answer.exit_code == 0, answer.output
    assert standalone.main([str(file), "--key", str(key_file)]) == 0
    for said in (answer.output, capsys.readouterr().out):
        assert "凭证有效: 第 5 条记录" in said
        assert "valid: entry 5 is in the checkpoint of 9 entries" in said


def test_events_that_are_left_out_are_said_to_be(tmp_path: Path) -> None:
    file = tmp_path / "receipt.bin"
    file.write_bytes(changed(lambda receipt: receipt.ClearField("events")))
    answer = CliRunner().invoke(main, ["ledger", "verify", str(file), "--key", KEY])
    assert answer.exit_code == 0
    assert "事件未随附" in answer.output


def test_witnesses_are_counted(tmp_path: Path) -> None:
    file, key = tmp_path / "receipt.bin", witness_key(WITNESS, SEED)
    file.write_bytes(with_note(NOTE + cosign(NOTE, WITNESS, SEED, 1_700_000_000)))
    verify = ["ledger", "verify", str(file), "--key", KEY, "--witness", key]
    answer = CliRunner().invoke(main, verify)
    assert answer.exit_code == 0
    assert f"cosigned: {WITNESS} 2023-11-14" in answer.output
    answer = CliRunner().invoke(main, [*verify, "--quorum", "2"])
    assert answer.exit_code == 4
    assert Fault.NOT_WITNESSED.zh in answer.output


@pytest.mark.parametrize("key", ["no-such-file", "/"])
def test_a_key_that_is_not_there_is_wrong_usage(key: str, tmp_path: Path) -> None:
    file = tmp_path / "receipt.bin"
    file.write_bytes(WHOLE)
    answer = CliRunner().invoke(main, ["ledger", "verify", str(file), "--key", key])
    assert answer.exit_code == 2
    assert "neither a verifier key nor a file with one" in answer.output
    assert standalone.main([str(file), "--key", key]) == 2


def test_a_file_without_end_is_not_read_to_its_end() -> None:
    with pytest.raises(receipts.ReceiptInvalid) as refused:
        receipts.load(Path("/dev/zero"))
    assert refused.value.fault is Fault.TOO_LARGE
