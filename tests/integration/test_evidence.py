"""One box's evidence package: collected from a running service over mutual TLS, verified elsewhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

import elsewhere
from box_story import (
    ERASED_NAME,
    ERASED_TELEPHONE,
    FIRST,
    KEPT_NAME,
    KEPT_TELEPHONE,
    LABEL,
    SECOND,
    Story,
    told,
    wait_witnessed,
)
from jinku import accounts, notes, receipts
from jinku.errors import NotAllowed, Refused, require_accepted
from jinku.evidence import bundle, package, verify
from jinku.evidence.collect import Collector, NotWitnessedYet, Wanted, open_persons
from jinku.evidence.content import Content, Selection
from jinku.evidence.entries import EvidenceInvalid, concerns, ids_of_box
from jinku.evidence.scan import find_left_out, list_entries
from jinku.ledger import LedgerClient
from jinku.main import main
from jinku.registry import RegistryClient
from jinku.v1.common_pb2 import Receipt
from jinku.v1.contact_pb2 import EndContactRequest, RegisterContactRequest
from jinku.v1.ledger_pb2 import GetCheckpointRequest, GetEntryRequest, ListEntriesRequest
from jinku.verdicts import Fault
from registrar import container, institution, vault
from repository import ROOT


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    with told(tmp_path_factory.mktemp("story")) as made:
        wait_witnessed(made)
        yield made


@pytest.fixture(scope="module")
def content(story: Story) -> Content:
    """Everything: read from the whole journal, contacts too, receipts' checkpoints proven."""
    return story.collect(scanned=True, contacts=True, witnessed=True, receipts=box_receipts(story))


@pytest.fixture(scope="module")
def packed(content: Content) -> bytes:
    return package.write(content)


def box_receipts(story: Story) -> list[Receipt]:
    """What callers were given with answers about the box."""
    told_ = [*story.receipts, *(one.receipt for one in (*story.alarms, *story.passages))]
    return [receipt for receipt in told_ if receipt.header]


def kinds(content: Content) -> list[list[str | None]]:
    return [
        [event.WhichOneof("event") for event in entry.events.events] for entry in content.subject
    ]


@pytest.mark.req("MON-13")
def test_all_that_happened_to_the_box_is_in_it(
    story: Story, content: Content, packed: bytes
) -> None:
    assert kinds(content) == [
        ["container_registered"],
        ["tag_issued"],
        [],
        [],
        [],
        [],
        ["passage_recorded", "custody_moved"],
        ["alarm_raised"],
        ["tag_frozen"],
        ["alarm_raised"],
        ["tag_unfrozen"],
        ["tag_retired", "tag_issued"],
        ["passage_recorded", "custody_moved"],
        ["tag_retired"],
    ]
    held = box_receipts(story)
    verified = verify.verify(packed, story.key, [str(story.witness.key)], 1, held)
    assert list(verified.cosigners) == [story.witness.key]
    proven = {entry.header_bytes for entry in verified.content.entries}
    told_ = [receipts.parse_header(receipt.header) for receipt in held]
    assert {one.index for one in told_} > {entry.index for entry in content.subject}
    assert {one.header for one in held} >= {entry.header_bytes for entry in content.subject}
    assert proven >= {entry.header_bytes for entry in content.subject}


@pytest.mark.req("MON-09")
def test_the_account_says_who_when_where_from_what_to_what(story: Story, packed: bytes) -> None:
    texts = verify.verify(packed, story.key).texts
    zh, en = texts["account.zh.txt"], texts["account.en.txt"]
    for text in (zh, en):
        assert "spiffe://demonstration.jinku.example/1/service/registrar" in text
        assert "gate-1 (1/3/0)" in text
        assert "founding-1" in text
        assert FIRST.hex() in text
        assert SECOND.hex() in text
    assert f"款箱 {LABEL} (1/4/0) 经通道门 gate-1 (1/3/0) 出库" in zh
    assert "402 标签应答系伪造" in zh
    assert "402 TAG_EVIDENCE_FORGED" in en
    assert "有效 → 冻结" in zh
    assert "change: custody with I-1 I-1 支行 (1/1/0) → in transit, accountable I-1" in en
    entry = story.ledger.get_entry(GetEntryRequest(entry_index=4))
    when = receipts.parse_header(entry.receipt.header).decided_at_ns
    assert f"entry 4 of realm 1, {accounts.format_time(when)}" in en
    assert "解冻: 已核对" in zh


def test_the_same_journal_gives_the_same_bytes(story: Story, packed: bytes) -> None:
    again = story.collect(scanned=True, contacts=True, witnessed=True, receipts=box_receipts(story))
    assert package.write(again) == packed


def test_what_the_service_lists_is_what_the_rule_selects(story: Story, content: Content) -> None:
    """The service's own index against the whole journal."""
    listed = story.collect()
    assert listed.selection is Selection.EVENTS
    ids = ids_of_box(listed.container_id, content.entries)
    whole = list_entries(story.ledger, content.checkpoint.tree_size)
    ruled = [entry.index for entry in whole if concerns(entry, ids, with_refusals=False)]
    assert [entry.index for entry in listed.subject] == ruled
    # And the scan has what was refused besides.
    refused = {entry.index for entry in content.subject} - set(ruled)
    assert [content.by_index[index].refused for index in refused] == [True] * 4


@pytest.mark.req("MON-09", "MON-13")
def test_an_entry_left_out_is_named(story: Story, content: Content) -> None:
    """Offline where another entry rests on it, by reading the whole journal in every case."""
    found_offline = set()
    for entry in content.subject:
        fewer = without(content, entry.index)
        assert entry.index in find_left_out(story.ledger, fewer)
        if fault_of(fewer, story.key) is not None:
            found_offline.add(entry.index)
    kinds_of = dict(zip((entry.index for entry in content.subject), kinds(content), strict=True))
    silent = {index for index in kinds_of if index not in found_offline}
    # Where nothing later rests on it, as the package says of itself: a frozen tag may be retired.
    assert [kinds_of[index] for index in sorted(silent)] == [
        [], [], [], [], ["alarm_raised"], ["alarm_raised"], ["tag_unfrozen"],
        ["passage_recorded", "custody_moved"], ["tag_retired"],
    ]  # fmt: skip
    assert find_left_out(story.ledger, content) == []


def fault_of(content: Content, key: str) -> Fault | None:
    """What a verifier finds wrong with a package that somebody made of this; None: nothing."""
    try:
        verify.verify(package.write(content), key)
    except EvidenceInvalid as error:
        return error.fault
    return None


def without(content: Content, *left_out: int) -> Content:
    kept = tuple(entry for entry in content.entries if entry.index not in left_out)
    return replace(content, entries=kept)


@pytest.mark.req("MON-13")
def test_an_entry_about_a_contact_that_is_left_out_is_named(story: Story, content: Content) -> None:
    of_persons = [entry.index for entry in content.of_persons]
    assert len(of_persons) >= 4
    for index in of_persons:
        assert find_left_out(story.ledger, without(content, index)) == [index]
    # Also where the whole person was: they are the contacts of the box's institution, all of them.
    _, kept = content.persons
    of_one = [e.index for e in content.of_persons if kept not in e.named]
    fewer = replace(without(content, *of_one), persons=(kept,))
    assert of_one
    assert find_left_out(story.ledger, fewer) == of_one
    # Without contacts there are none to miss.
    nobody = replace(without(content, *of_persons), persons=())
    assert find_left_out(story.ledger, nobody) == []


@pytest.mark.req("MON-13")
def test_a_selection_says_no_more_than_it_proves(story: Story, content: Content) -> None:
    """A package without the tag's freezing and all after it: it verifies, and says what it is."""
    frozen = next(i for i, kind in enumerate(kinds(content)) if kind == ["tag_frozen"])
    later = [entry.index for entry in content.subject[frozen:]]
    verified = verify.verify(package.write(without(content, *later)), story.key)
    last = content.subject[frozen - 1].index
    zh, en = verified.texts["account.zh.txt"], verified.texts["account.en.txt"]
    assert ": active" in en
    assert "as of the checkpoint" not in en.lower()
    assert "State after the entries in this package" in en
    assert f"the last is entry {last}; whether others were left out" in en
    assert f"最后一条为第 {last} 条; 此前此后有无遗漏, 本包不能证明" in zh
    for line in verified.verdict():
        assert "jinku evidence complete" in line


class Lying(LedgerClient):
    """A service that keeps entries back: those with these indices."""

    def __init__(self, story: Story, *hidden: int) -> None:
        super().__init__(story.running.auditor())
        self.hidden = hidden

    def list_entries(self, request: ListEntriesRequest) -> Any:
        page = super().list_entries(request)
        kept = [e for e in page.entries if receipts.parse_header(e.header).index not in self.hidden]
        del page.entries[:]
        page.entries.extend(kept)
        return page


def test_a_service_that_keeps_an_entry_back_is_found_out(story: Story, content: Content) -> None:
    alarm = next(i for i, kind in zip(content.subject, kinds(content), strict=True)
                 if kind == ["alarm_raised"]).index  # fmt: skip
    lying = Lying(story, alarm)
    registry = RegistryClient(story.running.auditor())
    with pytest.raises(EvidenceInvalid) as told_:
        Collector(lying, registry).collect(Wanted(LABEL, scanned=True))
    assert (told_.value.fault, told_.value.where) == (Fault.ENTRY_MISSING, f"entry {alarm}")
    # By its index alone it gets through, and is named by whoever reads the journal.
    by_index = Collector(lying, registry).collect(Wanted(LABEL))
    verify.verify(package.write(by_index), story.key)
    assert find_left_out(story.ledger, by_index) == [alarm]


def test_nobody_but_an_auditor_collects(story: Story) -> None:
    for who in ("registrar", "privacy"):
        channel = story.running.channel(story.running.files(f"service-{who}"))
        with pytest.raises(NotAllowed):
            LedgerClient(channel).list_entries(ListEntriesRequest())
    with pytest.raises(NotAllowed):
        LedgerClient(story.running.portal("gate-1")).list_entries(ListEntriesRequest())


def test_a_box_that_is_not_there(story: Story) -> None:
    registry = RegistryClient(story.running.auditor())
    with pytest.raises(Refused, match="CONTAINER_NOT_REGISTERED"):
        Collector(story.ledger, registry).collect(Wanted("nobody's"))


def test_without_witnesses_it_says_so(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = story.running.service.ledger
    monkeypatch.setattr(ledger.witnessed, "newest", None)
    with pytest.raises(NotWitnessedYet, match="are needed"):
        story.collect(witnessed=True)
    unwitnessed = package.write(story.collect())
    assert verify.verify(unwitnessed, story.key).cosigners == {}
    with pytest.raises(EvidenceInvalid) as refused:
        verify.verify(unwitnessed, story.key, [str(story.witness.key)], 1)
    assert refused.value.fault is Fault.NOT_WITNESSED


# -- persons


@pytest.mark.req("MON-13")
def test_personal_values_are_for_who_may_have_them(
    story: Story, content: Content, packed: bytes
) -> None:
    personal = [ERASED_NAME, ERASED_TELEPHONE, KEPT_NAME, KEPT_TELEPHONE]
    assert not any(text.encode() in packed for text in personal)
    zh = verify.verify(packed, story.key).texts["account.zh.txt"]
    assert zh.count("未提供, 仅有承诺值") == 2
    assert zh.count("已删除, 见第") == 2
    with pytest.raises(NotAllowed):
        open_persons(content, RegistryClient(story.running.auditor(), story.privacy.command_ids))
    with pytest.raises(Refused, match="PRIVACY_OFFICER_ONLY"):
        open_persons(content, story.registrar)
    opened = open_persons(content, story.privacy)
    zh = verify.verify(package.write(opened), story.key).texts["account.zh.txt"]
    assert f"联系人姓名 (第 21 条): {KEPT_NAME}" in zh
    assert f"联系电话 (第 21 条): {KEPT_TELEPHONE}" in zh
    assert ERASED_NAME not in zh
    assert zh.count("已删除, 见第") == 2
    # Who read them is on record.
    newest = story.ledger.get_entry(
        GetEntryRequest(entry_index=story.running.service.ledger.size - 1)
    )
    assert receipts.parse_header(newest.receipt.header).command == "jinku.v1.ReadContactRequest"


class Busy(LedgerClient):
    """A service on which something happens as soon as it has told its checkpoint."""

    def __init__(self, story: Story, happens: Callable[[], None]) -> None:
        super().__init__(story.running.auditor())
        self.happens = happens

    def get_checkpoint(self, request: GetCheckpointRequest) -> Any:
        answer = super().get_checkpoint(request)
        self.happens()
        return answer


@pytest.mark.req("MON-13")
@pytest.mark.parametrize("scanned", [False, True])
def test_contacts_are_those_of_the_checkpoint(story: Story, scanned: bool) -> None:
    """Whatever becomes of them meanwhile; also one that ended and had nobody in its place."""
    code = f"I-{scanned:d}-contacts"
    label = f"K-{code}"
    for request in (institution(code), vault(f"V-{code}", code), container(label, code)):
        story.accept(request)

    def register(*, replaces: bool) -> bytes:
        response = story.registrar.register_contact(
            RegisterContactRequest(
                institution_code=code, name=KEPT_NAME, telephone=KEPT_TELEPHONE, replaces=replaces
            )
        )
        require_accepted(response.outcome)
        return response.contact_id

    def end(contact_id: bytes) -> None:
        response = story.registrar.end_contact(EndContactRequest(contact_id=contact_id))
        require_accepted(response.outcome)

    def collect(happens: Callable[[], None]) -> Content:
        registry = RegistryClient(story.running.auditor())
        wanted = Wanted(label, scanned=scanned, contacts=True)
        collected = Collector(Busy(story, happens), registry).collect(wanted)
        verify.verify(package.write(collected), story.key)
        assert find_left_out(story.ledger, collected) == []
        return collected

    assert collect(lambda: None).persons == ()
    first = register(replaces=False)
    assert collect(lambda: end(first)).persons == (first,)
    second = register(replaces=False)
    made: list[bytes] = []
    collected = collect(lambda: made.append(register(replaces=True)))
    assert collected.persons == (first, second)
    assert collect(lambda: None).persons == (first, second, *made)


# -- elsewhere


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("client")
    elsewhere.install_client(site)
    return site


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A machine with Python and cryptography, and the verifier as one file."""
    site = tmp_path_factory.mktemp("bare")
    elsewhere.install(site, elsewhere.requirements_of("cryptography") | {"cryptography"})
    (site / "jinku-verify.pyz").write_bytes(bundle.build())
    return site


@pytest.fixture(scope="module")
def handed_over(
    story: Story, content: Content, packed: bytes, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What a third party is given: package, a receipt, two keys."""
    directory = tmp_path_factory.mktemp("handed-over")
    (directory / "k1.zip").write_bytes(packed)
    events = "entries/00000000000000000001.events"
    files = package.assemble(content)
    altered = {**files, events: files[events].replace(b"I-1", b"I-7")}
    (directory / "altered.zip").write_bytes(package.pack(altered))
    (directory / "realm.key").write_text(story.key + "\n", encoding="utf-8")
    (directory / "witness.key").write_text(str(story.witness.key), encoding="utf-8")
    receipts.save(story.receipts[4], directory / "receipt.bin")
    return directory


VERIFY_WITH_CLIENT = {
    "k1.zip": ("jinku.main", "evidence", "verify"),
    "altered.zip": ("jinku.main", "evidence", "verify"),
    "receipt.bin": ("jinku.main", "ledger", "verify"),
}


@pytest.mark.req("MON-13")
@pytest.mark.parametrize("name", VERIFY_WITH_CLIENT)
@pytest.mark.parametrize("single_file", [False, True], ids=["jinku", "one-file"])
def test_verified_on_another_machine(
    client: Path, bare: Path, handed_over: Path, name: str, single_file: bool
) -> None:
    program = (str(bare / "jinku-verify.pyz"),) if single_file else VERIFY_WITH_CLIENT[name]
    site = bare if single_file else client
    key, witness = handed_over / "realm.key", handed_over / "witness.key"
    arguments = [*program, str(handed_over / name), "--key", str(key)]
    if name == "k1.zip":
        arguments += ["--witness", str(witness), "--receipt", str(handed_over / "receipt.bin")]
    answer = elsewhere.run(site, *arguments)
    if name == "altered.zip":
        assert answer.returncode == 4, answer.stdout + answer.stderr
        assert "entries/00000000000000000001.events" in answer.stderr
        assert Fault.NOT_IN_JOURNAL.zh in answer.stderr
        assert Fault.NOT_IN_JOURNAL.en in answer.stderr
        return
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "有效" in answer.stdout
    assert "valid: " in answer.stdout
    if name == "k1.zip":
        assert "cosigned: witness.example/w0" in answer.stdout
        assert "· 标签" in answer.stdout


def test_another_machine_has_neither_network_nor_server(client: Path) -> None:
    for code, why in (("import socket; socket.create_connection(('127.0.0.1', 9))", "network"),
                      ("import core", "server")):  # fmt: skip
        (client / "attempt.py").write_text(code, encoding="utf-8")
        answer = elsewhere.run(client, "attempt")
        assert answer.returncode == 1
        assert why in answer.stderr
    absent = elsewhere.run(client, "core", guard="import sys")
    assert "No module named core" in absent.stderr


@pytest.mark.needs_debian("golang-go", "golang-golang-x-mod-dev")
@pytest.mark.req("MON-13")
def test_go_verifies_it(story: Story, content: Content, handed_over: Path, tmp_path: Path) -> None:
    """The Go project's implementation of notes and proofs, and what docs/formats.md says."""
    program = tmp_path / "evidence"
    built = subprocess.run(
        ["go", "build", "-o", program, ROOT / "tests" / "interop" / "evidence.go"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "CGO_ENABLED": "0",
             "GOCACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    told_, altered = (
        subprocess.run([program, handed_over / name, story.key], capture_output=True, text=True)
        for name in ("k1.zip", "altered.zip")
    )
    assert told_.stdout.split() == [str(len(content.entries)), str(len(content.earlier))]
    assert altered.returncode == 1
    assert "entries/00000000000000000001" in altered.stderr


# -- the command


@pytest.fixture
def jinku(story: Story, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, who: str = "auditor", code: int = 0) -> str:
        files = story.running.files(f"service-{who}")
        environment = {
            "JINKU_TARGET": story.running.target,
            "JINKU_CERTIFICATE": str(files.certificate),
            "JINKU_KEY": str(files.private_key),
            "JINKU_CA": str(story.running.certificates / "ca.pem"),
            "XDG_STATE_HOME": str(tmp_path),
        }
        answer = CliRunner(env=environment).invoke(main, ["evidence", *arguments])
        assert answer.exit_code == code, answer.output
        return answer.output

    return run


@pytest.mark.req("MON-13")
def test_from_the_command_line(jinku: Any, story: Story, tmp_path: Path) -> None:
    receipts.save(story.receipts[4], tmp_path / "receipt.bin")
    (tmp_path / "realm.key").write_text(story.key, encoding="utf-8")
    own = ("--verifier-key", "realm.key")
    told_ = jinku("export", LABEL, "--output", "k1.zip", "--scan", "--contacts",
                  "--receipt", "receipt.bin", *own)  # fmt: skip
    assert "证据包有效" in told_
    told_ = jinku("verify", "k1.zip", "--key", "realm.key", "--receipt", "receipt.bin")
    assert told_.count(f"{LABEL} (1/4/0)") > 10
    assert "valid: 14 entries about container 1/4/0" in told_
    told_ = jinku("complete", "k1.zip", *own)
    assert "complete: nothing is left out" in told_
    assert "refusals beyond a caller's quota have no entry of their own" in told_
    none = ("--output", "none.zip")
    # None of them takes the key from the service that it reads.
    for command in (("complete", "k1.zip"), ("export", LABEL, *none), ("open", "k1.zip", *none)):
        assert "Missing option '--verifier-key'" in jinku(*command, code=2)
    assert "CONTAINER_NOT_REGISTERED" in jinku("export", "none", *none, *own, code=1)
    jinku("export", LABEL, *none, *own, who="registrar", code=3)
    jinku("open", "k1.zip", *none, *own, who="auditor", code=3)
    assert not (tmp_path / "none.zip").exists()
    jinku("open", "k1.zip", "--output", "opened.zip", *own, who="privacy")
    assert KEPT_NAME in jinku("verify", "opened.zip", "--key", "realm.key", "--language", "en")
    assert "neither a verifier key nor" in jinku("verify", "k1.zip", "--key", "none", code=2)
    other = story.key.replace("/jinku/1", "/jinku/2")
    assert Fault.KEY_MALFORMED.zh in jinku("verify", "k1.zip", "--key", other, code=4)


def test_completeness_is_judged_with_the_auditors_own_key(
    jinku: Any, story: Story, content: Content, tmp_path: Path
) -> None:
    """A service with another key than the package's is told, also where all entries are the same."""
    stranger = Ed25519PrivateKey.generate()
    origin, text = content.checkpoint.origin, notes.Note.parse(content.note).text
    key = notes.VerifierKey.make(origin, stranger.public_key().public_bytes_raw())
    signature = notes.Signature(key.name, key.key_id, stranger.sign(text.encode()))
    forged = replace(content, note=str(notes.Note(text, (signature,))), earlier=())
    (tmp_path / "forged.zip").write_bytes(package.write(forged))
    told_ = jinku("complete", "forged.zip", "--verifier-key", str(key), code=4)
    assert f"the service's checkpoint: {Fault.OTHER_KEY.zh}" in told_
    told_ = jinku("complete", "forged.zip", "--verifier-key", story.key, code=4)
    assert Fault.OTHER_KEY.zh in told_
    missing = content.subject[-1].index
    (tmp_path / "less.zip").write_bytes(package.write(without(content, missing)))
    told_ = jinku("complete", "less.zip", "--verifier-key", story.key, code=4)
    assert f"left out / 遗漏: entries {missing}\n" in told_
    assert Fault.ENTRY_MISSING.zh in told_


def test_the_verifier_is_written_as_one_file(
    jinku: Any, bare: Path, handed_over: Path, tmp_path: Path
) -> None:
    """The same bytes each time, so that its digest can be compared; it runs by itself."""
    told_ = jinku("verifier", "jinku-verify.pyz")
    program = tmp_path / "jinku-verify.pyz"
    content = program.read_bytes()
    assert content == (bare / "jinku-verify.pyz").read_bytes()
    assert hashlib.sha256(content).hexdigest() in told_
    absent = handed_over / "none.zip"
    command = [sys.executable, program, absent, "--key", handed_over / "realm.key"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert f"用法不对: [Errno 2] No such file or directory: '{absent}'" in answer.stderr
