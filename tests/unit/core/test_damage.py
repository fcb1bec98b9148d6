"""Damage to the ledger's file, by hand or by chance: named, and never answered as if it were true."""

from __future__ import annotations

import random
import shutil
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest
from google.protobuf.message import Message

from core.errors import JinkuError, LedgerCorrupt
from core.fsck import Report, fsck
from core.keys import RealmKeys
from core.ledger import layout
from core.ledger.ledger import Ledger
from core.ledger.tables import CONTAINERS, INDEX, TABLES, TAGS, IndexKind
from core.ledger.tiles import read_tile
from core.procedures.table import QUERIES
from jinku.v1.ledger_pb2 import GetEntryRequest, ListEntriesRequest
from jinku.v1.registry_pb2 import GetContainerRequest, GetContainerResponse
from ledgers import REALM, TRUST_DOMAIN, reopen
from registrar import Registrar, container, freeze, institution, issue, portal, retire, vault
from soak import how_many

JOURNAL, NODES, CHECKPOINTS = layout.JOURNAL, layout.NODES, layout.CHECKPOINTS
NUMBERS = [*(table.number for table in TABLES), JOURNAL, NODES, CHECKPOINTS]
FIRST = bytes([1]) * 12


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger with rows in most tables; tests copy it."""
    directory = tmp_path_factory.mktemp("sound")
    registrar = Registrar(directory)
    for request in (institution(), vault(), portal()):
        registrar.accept(request)
    for number in range(1, 31):
        registrar.accept(container(f"B-{number}"))
        registrar.accept(issue(bytes([number]) * 12, f"B-{number}"))
        if number == 20:
            # With room between its rows, as any copy that somebody may put back has.
            shutil.copy(directory / "ledger" / "data.mdb", directory / "older.mdb")
    registrar.accept(freeze(FIRST))
    registrar.verify()
    registrar.ledger.close()
    return directory


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "copy")


def open_probed(directory: Path, *, as_found: bool = True) -> Ledger:
    keys = RealmKeys.load(directory / "keys")
    path = directory / "ledger"
    return Ledger(path, keys, REALM, TRUST_DOMAIN, map_gib=1, probed=True, as_found=as_found)


def rows(directory: Path, number: int) -> list[tuple[bytes, bytes]]:
    with lmdb.open(str(directory / "ledger"), max_dbs=32) as env:
        handle = env.open_db(b"%d" % number)
        with env.begin() as txn:
            return [(bytes(key), bytes(value)) for key, value in txn.cursor(db=handle)]


def edit(
    directory: Path, number: int, change: Callable[[lmdb.Transaction, lmdb._Database], object]
) -> None:
    with lmdb.open(str(directory / "ledger"), max_dbs=32) as env:
        handle = env.open_db(b"%d" % number)
        with env.begin(write=True) as txn:
            change(txn, handle)


def verify(directory: Path) -> Report:
    ledger = open_probed(directory)
    try:
        return fsck(ledger)
    finally:
        ledger.close()


def test_a_copy_is_sound(copy: Path) -> None:
    verify(copy)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_row_that_is_gone_is_named(copy: Path, number: int) -> None:
    found = rows(copy, number)
    for at in {0, len(found) // 2, len(found) - 1} if found else set():
        key, value = found[at]
        edit(copy, number, lambda txn, db, key=key: txn.delete(key, db=db))
        with pytest.raises(LedgerCorrupt):
            verify(copy)
        edit(copy, number, lambda txn, db, key=key, value=value: txn.put(key, value, db=db))
    verify(copy)


@pytest.mark.parametrize("number", NUMBERS)
def test_a_row_that_nobody_wrote_is_named(copy: Path, number: int) -> None:
    for key in (b"\0", b"\xff" * 8, b"\xff" * 9, b"\xff" * 40):
        edit(copy, number, lambda txn, db, key=key: txn.put(key, b"\1" * 32, db=db))
        with pytest.raises(LedgerCorrupt):
            verify(copy)
        edit(copy, number, lambda txn, db, key=key: txn.delete(key, db=db))
    verify(copy)


@pytest.mark.parametrize("number", NUMBERS)
def test_two_rows_that_changed_places_are_named(copy: Path, number: int) -> None:
    found = rows(copy, number)
    if len(found) < 2 or found[0][1] == found[-1][1]:
        return
    (first, this), (last, that) = found[0], found[-1]
    edit(copy, number, lambda txn, db: (txn.put(first, that, db=db), txn.put(last, this, db=db)))
    with pytest.raises(LedgerCorrupt):
        verify(copy)


def test_a_moved_row_is_never_answered(copy: Path) -> None:
    (first, _), (_, other) = rows(copy, TAGS.number)[:2]
    edit(copy, TAGS.number, lambda txn, db: txn.put(first, other, db=db))
    ledger = reopen(copy, as_found=True)
    with pytest.raises(LedgerCorrupt), ledger.read() as state:
        state.get(TAGS, first)
    ledger.close()


def test_an_older_value_put_back_is_named(copy: Path) -> None:
    """It opens, for it was written there once; the journal knows better."""
    before = dict(rows(copy, TAGS.number))
    ledger = reopen(copy)
    with ledger.read() as state:
        tag_id = state.find(IndexKind.TAG_IDENTITY, FIRST)
        assert tag_id is not None
    ledger.close()
    shutil.copytree(copy, copy.parent / "later")
    later = copy.parent / "later"
    registrar = Registrar.of(reopen(later))
    registrar.accept(retire(FIRST))
    registrar.ledger.close()
    edit(later, TAGS.number, lambda txn, db: txn.put(tag_id, before[tag_id], db=db))
    with pytest.raises(LedgerCorrupt, match=tag_id.hex()):
        verify(later)


def test_a_missing_entry_is_named_where_it_is_read(copy: Path) -> None:
    edit(copy, JOURNAL, lambda txn, db: txn.delete(layout.index_key(5), db=db))
    edit(copy, CHECKPOINTS, lambda txn, db: txn.delete(layout.index_key(5), db=db))
    ledger = reopen(copy, as_found=True)
    assert ledger.entry(4)
    with pytest.raises(LedgerCorrupt, match="entry 5"):
        ledger.entry(5)
    with pytest.raises(LedgerCorrupt):
        fsck(ledger)
    ledger.close()


def test_a_journal_cut_off_at_its_end_does_not_open(copy: Path) -> None:
    """The last commit's journal value and checkpoint: only tables and nodes are ahead now."""
    for number in (JOURNAL, CHECKPOINTS):
        key, _ = rows(copy, number)[-1]
        edit(copy, number, lambda txn, db, key=key: txn.delete(key, db=db))
    with pytest.raises(LedgerCorrupt, match="Merkle nodes"):
        reopen(copy)


def test_an_emptied_journal_does_not_pass_for_a_new_one(copy: Path) -> None:
    for number in (JOURNAL, NODES, CHECKPOINTS):
        edit(copy, number, lambda txn, db: txn.drop(db, delete=False))
    with pytest.raises(LedgerCorrupt, match="is empty, and the tables are not"):
        reopen(copy)


def test_a_failed_opening_leaves_nothing_open(copy: Path) -> None:
    secret = copy / "keys" / "realm.key"
    right = secret.read_bytes()
    secret.write_bytes(bytes(32))
    with pytest.raises(LedgerCorrupt):
        reopen(copy)
    secret.write_bytes(right)
    reopen(copy).close()


WAYS = ("bit", "bits of a page", "page", "cut", "swapped pages", "older page", "meta")
PAGE = 4096


def spoil(content: bytearray, older: bytes, how: str, chance: random.Random) -> None:
    """One piece of bad luck, or of bad will, with the file."""
    at = chance.randrange(len(content))
    page = at - at % PAGE
    if how == "bit":
        content[at] ^= 1 << chance.randrange(8)
    elif how == "bits of a page":
        for _ in range(8):
            content[page + chance.randrange(PAGE)] ^= 1 << chance.randrange(8)
    elif how == "page":
        content[page : page + PAGE] = chance.choice((bytes(PAGE), chance.randbytes(PAGE)))
    elif how == "cut":
        del content[at:]
    elif how == "swapped pages":
        other = chance.randrange(len(content)) // PAGE * PAGE
        one, two = content[page : page + PAGE], content[other : other + PAGE]
        content[page : page + PAGE], content[other : other + PAGE] = two, one
    elif how == "older page":
        page %= len(older)
        content[page : page + PAGE] = older[page : page + PAGE]
    else:
        content[chance.randrange(2 * PAGE)] ^= 1 << chance.randrange(8)


def answers(directory: Path) -> dict[str, Message]:
    """To every question about the boxes and the journal; none where the damage is named instead."""
    try:
        ledger = open_probed(directory, as_found=False)
    except LedgerCorrupt:
        return {}
    asked: list[Message] = [GetEntryRequest(entry_index=index) for index in range(ledger.size)]
    asked += [ListEntriesRequest(start_index=index) for index in range(0, ledger.size, 8)]
    for number in range(1, 31):
        asked.append(GetContainerRequest(label=f"B-{number}"))
        asked.append(GetContainerRequest(identity=bytes([number]) * 12))
    told = {}
    try:
        for request in asked:
            with suppress(LedgerCorrupt):
                told[f"{type(request).__name__} {request}"] = QUERIES[type(request)].answer(
                    request, ledger
                )
    finally:
        ledger.close()
    return told


def leaves_out(told: Message, truth: Message) -> bool:
    """Whether an answer says nothing but the truth, and not all of it: no box, or not all its history."""
    if not (isinstance(told, GetContainerResponse) and isinstance(truth, GetContainerResponse)):
        return False
    if not told.found:
        return True
    events = iter(truth.history)
    in_order = all(item in events for item in told.history)
    rest = GetContainerResponse()
    rest.CopyFrom(truth)
    rest.ClearField("history")
    rest.history.extend(told.history)
    return told == rest and in_order


def campaign(sound: Path, directory: Path, count: int, seed: int) -> None:
    """Spoil the file over and over: no wrong value is answered, and the finding is named, or every row
    is as it was.
    """
    shutil.copytree(sound, directory)
    truth = answers(directory)
    assert len(truth) > 120
    original = (sound / "ledger" / "data.mdb").read_bytes()
    older = (sound / "older.mdb").read_bytes()
    expected = {number: rows(sound, number) for number in NUMBERS}
    chance = random.Random(seed)
    named, in_vain = dict.fromkeys(WAYS, 0), 0
    for number in range(count):
        how = WAYS[number % len(WAYS)]
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(sound, directory)
        content = bytearray(original)
        spoil(content, older, how, chance)
        (directory / "ledger" / "data.mdb").write_bytes(content)
        if number % 50 == 49:
            told = f"named: {named}, answered in vain: {in_vain}"
            print(f"{number + 1} of {count} files spoilt, {told}", flush=True)
        wrong = {asked: one for asked, one in answers(directory).items() if one != truth[asked]}
        # A row that lies no longer where its page says is to a read as if it had never been.
        for asked, one in wrong.items():
            assert leaves_out(one, truth[asked]), (how, asked, one, truth[asked])
        in_vain += bool(wrong)
        try:
            report = verify(directory)
        except LedgerCorrupt:
            named[how] += 1
            continue
        assert not wrong, how
        assert report.entries == len(expected[JOURNAL]), how
        assert {number: rows(directory, number) for number in NUMBERS} == expected, how
    # Most of the others were in pages that nothing lives in.
    assert sum(named.values()) > count // 8


def test_a_spoilt_file_is_named_or_harmless(sound: Path, tmp_path: Path) -> None:
    campaign(sound, tmp_path / "spoilt", 42, seed=4)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_spoilt_file_is_named_or_harmless_many_times(sound: Path, tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    print("seed", seed)
    campaign(sound, tmp_path / "spoilt", how_many(1400), seed)


def test_a_circle_of_pages_ends(copy: Path) -> None:
    """A page that points back would be read for ever."""
    data = copy / "ledger" / "data.mdb"
    content = bytearray(data.read_bytes())
    circles = 0
    for page in range(2 * PAGE, len(content), PAGE):
        flags, lower = struct.unpack_from("<HH", content, page + 10)
        if flags & 1 and lower > 20:  # a branch: its nodes hold page numbers
            nodes = [
                page + struct.unpack_from("<H", content, page + at)[0] for at in range(16, lower, 2)
            ]
            for node in nodes[1:]:
                content[node : node + 6] = content[nodes[0] : nodes[0] + 6]
                circles += 1
    assert circles
    data.write_bytes(content)
    with pytest.raises(LedgerCorrupt, match="the ledger's file"):
        open_probed(copy)


def test_a_probe_that_cannot_run_accuses_nobody(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.ledger.environment._PROBE", "import no_such_module")
    with pytest.raises(JinkuError, match="could not be probed") as raised:
        open_probed(copy)
    assert not isinstance(raised.value, LedgerCorrupt)


def test_rows_are_where_the_tests_think(sound: Path) -> None:
    for number in (TAGS.number, CONTAINERS.number, INDEX.number, JOURNAL, NODES, CHECKPOINTS):
        assert len(rows(sound, number)) > 2


@pytest.mark.parametrize("node", [(0, 21), (2, 4), (3, 0)])
def test_no_proof_leaves_that_does_not_prove(copy: Path, node: tuple[int, int]) -> None:
    """The nodes are stored as they are: what is changed in the file is named, not handed out."""
    (value,) = (value for key, value in rows(copy, NODES) if key == layout.node_key(*node))
    data = copy / "ledger" / "data.mdb"
    content = data.read_bytes()
    assert value in content
    ledger = open_probed(copy)
    every = range(1, ledger.size + 1)
    truth = {(f, s): grown(ledger, f, s) for s in every for f in range(1, s + 1)}
    ledger.close()
    data.write_bytes(content.replace(value, flip(value)))
    ledger = open_probed(copy)
    try:
        sizes = [checkpoint.tree_size for checkpoint in ledger.checkpoints()]
        named = 0
        for index in range(ledger.size):
            for prove in (ledger.receipt, lambda at: ledger.proof(at, sizes[-1])):
                try:
                    prove(index)
                except LedgerCorrupt:
                    named += 1
        assert named
        asked = [(first, second) for second in range(1, ledger.size + 1) for first in (1, second)]
        asked += [(first, sizes[-1]) for first in range(1, sizes[-1])]
        answered = [one for one in asked if grown(ledger, *one) not in {truth[one], None}]
        assert not answered
        assert None in {grown(ledger, *one) for one in asked}
        for width in (ledger.size, 32, 22) if node[0] == 0 else ():
            with pytest.raises(LedgerCorrupt, match="tile 0 of level 0"):
                read_tile(ledger, 0, 0, width)
        ledger.suspect()
    finally:
        ledger.close()
    # After a stop whose outcome is unknown every node is looked at.
    with pytest.raises(LedgerCorrupt, match=f"Merkle node {node[0]}/{node[1]}|entry {node[1]}"):
        reopen(copy)


def grown(ledger: Ledger, first: int, second: int) -> tuple[object, ...] | None:
    """The proof that one tree begins another, and both roots; None if the ledger names a damage."""
    try:
        path, *roots = ledger.consistency(first, second)
    except LedgerCorrupt:
        return None
    return (*path, *roots)


def flip(value: bytes) -> bytes:
    return bytes([value[0] ^ 1]) + value[1:]
