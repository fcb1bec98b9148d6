"""fsck: what it names, that the quick half needs no tables, and that a killed replay goes on."""

from __future__ import annotations

import base64
import fcntl
import os
import random
import resource
import shutil
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest

from core.dumps import FILTER
from core.errors import JinkuError, LedgerCorrupt, SettingsError
from core.fsck import Report, fsck
from core.fsck.rows import SCRATCH
from core.keys import RealmKeys
from core.ledger import layout
from core.ledger.heads import NEWEST_FILE
from core.ledger.ledger import Ledger
from core.ledger.merkle import Frontier, leaf_hash
from core.ledger.port import Entry
from core.ledger.seal import Sealer
from core.ledger.tables import COMMANDS, CONTAINERS, HISTORY, TAGS
from jinku.event.v1.entry_pb2 import EntryHeader
from ledgers import REALM, command, reopen
from registrar import Registrar, container, freeze, institution, issue, portal, vault

JOURNAL, NODES, CHECKPOINTS = layout.JOURNAL, layout.NODES, layout.CHECKPOINTS
BOXES = 30
Change = Callable[[lmdb.Transaction, lmdb._Database], object]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A closed ledger, its second half in commits of several entries; tests copy it."""
    directory = tmp_path_factory.mktemp("sound")
    registrar = Registrar(directory)
    for request in (institution(), vault(), portal()):
        registrar.accept(request)
    for number in range(1, BOXES + 1):
        registrar.accept(container(f"B-{number}"))
        registrar.accept(issue(bytes([number]) * 12, f"B-{number}"))
    for number in range(5):
        batch = [command(container(f"C-{number}-{at}")) for at in range(7)]
        registrar.writer.commit(batch)
    registrar.ledger.close()
    return directory


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Path:
    return shutil.copytree(sound, tmp_path / "copy")


@pytest.fixture
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight leaves, and a mark after every ten entries."""
    monkeypatch.setattr("core.fsck.hashes._BLOCK_LEVEL", 3)
    monkeypatch.setattr("core.fsck.hashes._BLOCK", 8)
    monkeypatch.setattr("core.fsck.replay._COMMIT_EVERY", 10)


@pytest.fixture(params=["alone", "beside"])
def writing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are written by who replays, or by a process of its own."""
    least = 0 if request.param == "beside" else 1 << 60
    monkeypatch.setattr("core.fsck.scratch._BESIDE_MIN", least)


def check(directory: Path, **options: bool) -> Report:
    ledger = reopen(directory, as_found=True)
    try:
        return fsck(ledger, **options)
    finally:
        ledger.close()


def edit(directory: Path, number: int, change: Change, store: str = "ledger") -> None:
    with lmdb.open(str(directory / store), max_dbs=64) as env:
        handle = env.open_db(b"%d" % number)
        with env.begin(write=True) as txn:
            change(txn, handle)


def rows(directory: Path, number: int) -> list[tuple[bytes, bytes]]:
    with lmdb.open(str(directory / "ledger"), max_dbs=64) as env:
        handle = env.open_db(b"%d" % number)
        with env.begin() as txn:
            return [(bytes(key), bytes(value)) for key, value in txn.cursor(db=handle)]


def sealers(directory: Path) -> tuple[Sealer, Sealer]:
    """Of rows and of the journal, as the service has them: for somebody with all its keys."""
    keys = RealmKeys.load(directory / "keys")
    row = Sealer(keys.row_key, keys.index_key, REALM)
    return row, Sealer(keys.journal_key, keys.index_key, REALM)


def rewrite(directory: Path, first: int, change: Callable[[list[Entry]], list[Entry]]) -> None:
    """Change the entries of one commit, sealed again with the right key."""
    _, sealer = sealers(directory)
    key = layout.index_key(first)
    packed = sealer.open(JOURNAL, key, dict(rows(directory, JOURNAL))[key])
    entries = change([Entry(*fields) for fields in layout.unpack_entries(packed)])
    value = layout.pack_entries((entry.header, entry.events) for entry in entries)
    sealed = sealer.seal(JOURNAL, key, value)
    edit(directory, JOURNAL, lambda txn, db: txn.put(key, sealed, db=db))


@pytest.mark.usefixtures("small_steps", "writing")
def test_the_quick_half_and_the_whole(copy: Path) -> None:
    size = len(rows(copy, NODES))
    quick, whole = check(copy, hashes_only=True), check(copy)
    assert (quick.entries, quick.root_hash) == (whole.entries, whole.root_hash)
    assert 2 * whole.entries - whole.entries.bit_count() == size
    assert (quick.rows, whole.checkpoints) == (0, whole.entries - 5 * 6)
    assert whole.rows > whole.entries
    assert not (copy / "ledger" / SCRATCH).exists()


@pytest.mark.usefixtures("small_steps", "writing")
def test_progress_is_told_stage_by_stage(copy: Path) -> None:
    told: list[tuple[str, int, int]] = []
    ledger = reopen(copy)
    fsck(ledger, lambda *step: told.append(step))
    size = ledger.size
    ledger.close()
    stages = list(dict.fromkeys(stage for stage, _, _ in told))
    assert stages == ["hashes", "checkpoints", "replay", "compare"]
    assert [done for stage, done, _ in told if stage == "replay"] == [*range(0, size, 10), size]
    for stage in stages:
        counts = [(done, total) for name, done, total in told if name == stage]
        assert counts == sorted(counts)
        assert counts[-1][0] == counts[-1][1]


# ── what it names, also when somebody has the keys ──────────────────────────────────────────────


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize("hashes_only", [True, False])
def test_an_altered_entry(copy: Path, hashes_only: bool) -> None:
    def alter(entries: list[Entry]) -> list[Entry]:
        header = EntryHeader.FromString(entries[3].header)
        header.principal += "x"
        return [*entries[:3], Entry(header.SerializeToString(), entries[3].events), *entries[4:]]

    first = 4 + 2 * BOXES + 7
    rewrite(copy, first, alter)
    with pytest.raises(LedgerCorrupt, match=f"^entry {first + 3}: is not what was hashed"):
        check(copy, hashes_only=hashes_only)


def test_entries_that_changed_places(copy: Path) -> None:
    first = 4 + 2 * BOXES
    rewrite(copy, first, lambda entries: [entries[1], entries[0], *entries[2:]])
    with pytest.raises(
        LedgerCorrupt, match=f"^entry {first}: is the place where entry {first + 1}"
    ):
        check(copy, hashes_only=True)


def test_an_entry_that_was_taken_out(copy: Path) -> None:
    first = 4 + 2 * BOXES
    rewrite(copy, first, lambda entries: [entries[0], *entries[2:]])
    with pytest.raises(LedgerCorrupt, match=f"^entry {first + 1}: is the place where"):
        check(copy, hashes_only=True)
    rewrite(copy, first, lambda entries: entries[:1])
    with pytest.raises(LedgerCorrupt, match=f"^entry {first + 1}: is missing"):
        check(copy, hashes_only=True)


@pytest.mark.parametrize("back_ns", [[0, 1], [1, 0]], ids=["in a commit", "after another"])
def test_an_entry_that_was_decided_before_the_one_before_it(copy: Path, back_ns: list[int]) -> None:
    """Signed like any other: whoever writes the journal wrote that."""
    ledger = reopen(copy)
    size = ledger.size
    newest = EntryHeader.FromString(ledger.entry(size - 1).header)
    with ledger.writing() as writing:
        for index, back in enumerate(back_ns, size):
            header = EntryHeader(
                realm=REALM, index=index, decided_at_ns=newest.decided_at_ns - back
            )
            writing.append(Entry(header.SerializeToString(), b""))
    ledger.close()
    first = size + back_ns.index(1)
    with pytest.raises(LedgerCorrupt, match=f"^entry {first}: was decided before the one before"):
        check(copy, hashes_only=True)


def test_a_commit_that_was_taken_out(copy: Path) -> None:
    first = 4 + 2 * BOXES + 7
    edit(copy, JOURNAL, lambda txn, db: txn.delete(layout.index_key(first), db=db))
    edit(copy, CHECKPOINTS, lambda txn, db: txn.delete(layout.index_key(first + 7), db=db))
    with pytest.raises(LedgerCorrupt, match=f"^entry {first}: is missing"):
        check(copy, hashes_only=True)


@pytest.mark.usefixtures("small_steps")
@pytest.mark.parametrize(
    ("level", "index", "named"),
    [
        (0, 5, "^Merkle node 0/5: is not the hash of entry 5"),
        (1, 3, "^Merkle node 1/3: does not fit the entries 6 to 7"),
        (3, 2, "^Merkle node 3/2: does not fit the entries 16 to 23"),
        (5, 1, "^Merkle node 5/1: does not fit the entries 32 to 63"),
    ],
)
def test_a_node_with_one_bit_changed(copy: Path, level: int, index: int, named: str) -> None:
    key = layout.node_key(level, index)
    value = bytearray(dict(rows(copy, NODES))[key])
    value[7] ^= 4
    edit(copy, NODES, lambda txn, db: txn.put(key, bytes(value), db=db))
    with pytest.raises(LedgerCorrupt, match=named):
        check(copy, hashes_only=True)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_node_of_another_size(copy: Path, size: int) -> None:
    edit(copy, NODES, lambda txn, db: txn.put(layout.node_key(1, 3), bytes(size), db=db))
    with pytest.raises(LedgerCorrupt, match="^Merkle node 1/3: is missing or not 32 bytes"):
        check(copy, hashes_only=True)


def test_a_node_under_another_key(copy: Path) -> None:
    def move(txn: lmdb.Transaction, db: lmdb._Database) -> None:
        value = txn.pop(layout.node_key(1, 3), db=db)
        txn.put(layout.node_key(7, 9), value, db=db)

    edit(copy, NODES, move)
    with pytest.raises(LedgerCorrupt, match="^Merkle node 1/3: is missing"):
        check(copy, hashes_only=True)


def test_a_tree_that_was_made_over_again(copy: Path) -> None:
    """With every key but the signer's: entry, leaf and all nodes above fit, and no checkpoint does."""
    ledger = reopen(copy)
    entries = [entry for _, entry in ledger.entries()]
    ledger.close()
    changed = Entry(entries[9].header, entries[9].events + b"\x08\x01")
    rewrite(copy, 9, lambda _: [changed])
    nodes: list[tuple[bytes, bytes]] = []
    frontier = Frontier(0, lambda _level, _index: b"")
    for entry in [*entries[:9], changed, *entries[10:]]:
        nodes += [
            (layout.node_key(level, index), hashed)
            for level, index, hashed in frontier.append(leaf_hash(entry.leaf))
        ]
    edit(copy, NODES, lambda txn, db: [txn.put(key, value, db=db) for key, value in nodes])
    with pytest.raises(LedgerCorrupt, match="newest checkpoint: its root hash"):
        reopen(copy)


def test_checkpoints(copy: Path, tmp_path: Path) -> None:
    sealer, _ = sealers(copy)
    key = layout.index_key(5)
    note = sealer.open(CHECKPOINTS, key, dict(rows(copy, CHECKPOINTS))[key]).decode()
    text, signature = note.split("\n\n")
    lines = text.split("\n")
    root = "B" + lines[2][1:] if lines[2][0] != "B" else "C" + lines[2][1:]
    forged = {
        "has another root": "\n".join([*lines[:2], root]) + "\n\n" + signature,
        "the signature does not fit": text + "\n\n" + signature[:-9] + "AAAAAAA=\n",
        "no signature of this key": text + "\n\n",
        "does not open": "no note at all",
    }
    for what, value in forged.items():
        other = shutil.copytree(copy, tmp_path / what)
        sealed = sealer.seal(CHECKPOINTS, key, value.encode())
        edit(other, CHECKPOINTS, lambda txn, db, sealed=sealed: txn.put(key, sealed, db=db))
        with pytest.raises(LedgerCorrupt, match=f"^checkpoint 5: .*{what}"):
            check(other, hashes_only=True)


def test_a_ledger_older_than_its_witnessed_checkpoint(copy: Path, sound: Path) -> None:
    """The one file that was neither put back nor removed gives away that the others were."""
    registrar = Registrar.of(reopen(copy))
    registrar.accept(freeze(bytes([1]) * 12))
    registrar.ledger.witnessed.keep(registrar.ledger.checkpoint().note)
    registrar.verify()
    size = registrar.ledger.size
    registrar.ledger.close()
    shutil.copy(sound / "ledger" / "data.mdb", copy / "ledger" / "data.mdb")
    (copy / "ledger" / NEWEST_FILE).unlink()
    with pytest.raises(
        LedgerCorrupt, match=f"of {size} entries that witnesses cosigned: is of a la"
    ):
        check(copy, hashes_only=True)
    registrar = Registrar.of(reopen(copy))
    registrar.accept(freeze(bytes([2]) * 12))
    registrar.ledger.close()
    with pytest.raises(LedgerCorrupt, match="cosigned: has another root hash than the entries"):
        check(copy, hashes_only=True)
    path = copy / "ledger" / "witnessed"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LedgerCorrupt, match="witnessed: does not open"):
        check(copy, hashes_only=True)


@pytest.mark.usefixtures("writing")
def test_rows_are_named_with_what_differs(copy: Path, tmp_path: Path) -> None:
    sealer, _ = sealers(copy)
    (tag_id, sealed), (other_id, other) = rows(copy, TAGS.number)[:2]
    tag = TAGS.row.FromString(sealer.open(TAGS.number, tag_id, sealed))
    tag.state = 2  # type: ignore[assignment]
    tag.key_version = 9
    changed = sealer.seal(TAGS.number, tag_id, tag.SerializeToString(deterministic=True))
    command_key, _ = rows(copy, COMMANDS.number)[3]
    history_key, _ = rows(copy, HISTORY.number)[3]
    cases: dict[str, tuple[int, Change]] = {
        rf"^table 7 \(Tag\), row {tag_id.hex()}, first made by entry \d+: .*state, key_version differ": (
            TAGS.number, lambda txn, db: txn.put(tag_id, changed, db=db),
        ),
        rf"row {tag_id.hex()}.* does not open": (
            TAGS.number, lambda txn, db: txn.put(tag_id, other, db=db),
        ),
        rf"row {other_id.hex()}.* is missing": (
            TAGS.number, lambda txn, db: txn.delete(other_id, db=db),
        ),
        r"^table 6 \(Container\), row ff+: is stored, and the journal knows nothing of it": (
            CONTAINERS.number, lambda txn, db: txn.put(b"\xff" * 16, other, db=db),
        ),
        rf"^table 9 \(Command\), row {command_key.hex()}, of entry \d+: is missing": (
            COMMANDS.number, lambda txn, db: txn.delete(command_key, db=db),
        ),
        rf"^table 11 \(History\), row {history_key.hex()}, of entry \d+: is missing": (
            HISTORY.number, lambda txn, db: txn.delete(history_key, db=db),
        ),
    }  # fmt: skip
    for at, (named, (number, change)) in enumerate(cases.items()):
        other_copy = shutil.copytree(copy, tmp_path / str(at))
        edit(other_copy, number, change)
        with pytest.raises(LedgerCorrupt, match=named):
            check(other_copy)
        assert not (other_copy / "ledger" / SCRATCH).exists()


# ── going on ────────────────────────────────────────────────────────────────────────────────────


class Interrupted(BaseException):
    """As a signal would end it."""


def interrupt(directory: Path, after: int) -> None:
    """A check that ends when so many entries are replayed."""

    def stop(stage: str, done: int, _total: int) -> None:
        if stage == "replay" and done >= after:
            raise Interrupted

    ledger = reopen(directory)
    with pytest.raises(Interrupted):
        fsck(ledger, stop)
    ledger.close()
    assert (directory / "ledger" / SCRATCH).exists()


def replayed_from(ledger: Ledger) -> int:
    """Where a whole check's replay begins; it must end well, and leave nothing behind."""
    told: list[int] = []
    fsck(ledger, lambda stage, done, _: told.append(done) if stage == "replay" else None)
    assert not (ledger.path / SCRATCH).exists()
    return told[0]


@pytest.mark.usefixtures("small_steps", "writing")
def test_an_interrupted_replay_goes_on(copy: Path) -> None:
    interrupt(copy, 40)
    ledger = reopen(copy)
    # What was handed in to be written beside is written.
    assert replayed_from(ledger) in {40, 50}
    assert replayed_from(ledger) == 0
    ledger.close()


@pytest.mark.usefixtures("small_steps")
def test_it_goes_on_in_a_longer_journal(copy: Path) -> None:
    interrupt(copy, 40)
    registrar = Registrar.of(reopen(copy))
    registrar.accept(freeze(bytes([1]) * 12))
    assert replayed_from(registrar.ledger) == 40
    registrar.ledger.close()


@pytest.mark.usefixtures("small_steps")
def test_it_begins_anew_with_another_journal(copy: Path, sound: Path) -> None:
    """The same keys and the same realm, and what was replayed is not what is there now."""
    registrar = Registrar.of(reopen(copy))
    for number in range(20):
        registrar.accept(container(f"D-{number}"))
    size = registrar.ledger.size
    registrar.ledger.close()
    interrupt(copy, size - size % 10)
    (copy / "ledger" / "data.mdb").write_bytes((sound / "ledger" / "data.mdb").read_bytes())
    (copy / "ledger" / NEWEST_FILE).unlink()
    registrar = Registrar.of(reopen(copy))
    for number in range(30):
        registrar.accept(container(f"E-{number}"))
    assert replayed_from(registrar.ledger) == 0
    registrar.ledger.close()


@pytest.mark.usefixtures("small_steps", "writing")
def test_the_same_damage_in_the_scratch_hides_nothing(copy: Path) -> None:
    """A row deleted from both, put into both, and an older one put back into both."""
    changes: list[Change] = [
        lambda txn, db: txn.delete(rows_key, db=db),
        lambda txn, db: txn.put(b"\xff" * 16, value, db=db),
        lambda txn, db: txn.put(rows_key, value[:-1] + b"\0", db=db),
        lambda txn, db: (txn.put(rows_key, other, db=db), txn.put(other_key, value, db=db)),
    ]
    (rows_key, value), (other_key, other) = rows(copy, TAGS.number)[:2]
    for at, change in enumerate(changes):
        damaged = shutil.copytree(copy, copy.parent / str(at))
        interrupt(damaged, 70)
        for store in ("ledger", f"ledger/{SCRATCH}"):
            edit(damaged, TAGS.number, change, store)
        with pytest.raises(LedgerCorrupt, match="Tag"):
            check(damaged)


@pytest.mark.usefixtures("small_steps")
def test_a_spoilt_scratch_is_begun_anew(copy: Path) -> None:
    chance = random.Random(3)
    for how in range(6):
        interrupt(copy, 60)
        data = copy / "ledger" / SCRATCH / "data.mdb"
        content = bytearray(data.read_bytes())
        if how < 4:
            # Both meta pages point at pages behind them: one bit in each of the others.
            for page in range(8192, len(content), 4096):
                content[page + 4000 + chance.randrange(90)] ^= 1 << chance.randrange(8)
        elif how == 4:
            del content[len(content) // 2 :]
        else:
            content[:] = chance.randbytes(len(content))
        data.write_bytes(content)
        ledger = reopen(copy)
        assert replayed_from(ledger) == 0
        ledger.close()


@pytest.mark.usefixtures("small_steps")
def test_a_scratch_of_another_version_is_begun_anew(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(copy, 40)
    monkeypatch.setattr("core.fsck.scratch.metadata.version", lambda _name: "99.0")
    ledger = reopen(copy)
    assert replayed_from(ledger) == 0
    ledger.close()


@pytest.mark.usefixtures("writing")
def test_no_room_is_no_finding(copy: Path) -> None:
    ledger = reopen(copy)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(SettingsError, match="as much free room here as the tables take"):
            fsck(ledger)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    fsck(ledger)
    ledger.close()


# ── the process that writes ─────────────────────────────────────────────────────────────────────


def writers() -> list[int]:
    """Processes that write for a check of this one."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in found if b"beside" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def beside(small_steps: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.fsck.scratch._BESIDE_MIN", 0)


@pytest.mark.usefixtures("beside")
def test_no_key_is_where_others_see_it(copy: Path) -> None:
    keys = RealmKeys.load(copy / "keys")
    seen: list[bytes] = []

    def look(stage: str, _done: int, _total: int) -> None:
        for pid in writers() if stage == "replay" else ():
            seen.append(Path(f"/proc/{pid}/cmdline").read_bytes())
            # That of a process that cannot be dumped is root's.
            with suppress(PermissionError):
                seen.append(Path(f"/proc/{pid}/environ").read_bytes())

    ledger = reopen(copy)
    fsck(ledger, look)
    ledger.close()
    assert seen
    assert not writers()
    for secret in (keys.row_key, keys.index_key):
        for form in (secret, secret.hex().encode(), base64.b64encode(secret)):
            assert not any(form in one for one in seen)


@pytest.mark.usefixtures("beside")
def test_nothing_of_it_would_be_dumped(copy: Path) -> None:
    """It holds the keys of rows, whatever whoever started the check allows."""
    seen: list[int] = []

    def look(stage: str, done: int, _total: int) -> None:
        # By then it has written a part.
        if stage == "replay" and done >= 40:
            files = [Path(f"/proc/{pid}/{FILTER.name}") for pid in writers()]
            seen.extend(int(file.read_text(), 16) for file in files)

    own = FILTER.read_text()
    FILTER.write_text("0x33")
    ledger = reopen(copy)
    try:
        fsck(ledger, look)
    finally:
        ledger.close()
        FILTER.write_text(f"0x{own}")
    assert seen
    assert not any(seen)


@pytest.mark.usefixtures("beside")
def test_a_check_whose_writer_is_killed_goes_on(copy: Path) -> None:
    def kill(stage: str, done: int, _total: int) -> None:
        if stage == "replay" and done >= 40:
            for pid in writers():
                os.kill(pid, signal.SIGKILL)

    ledger = reopen(copy)
    with pytest.raises(JinkuError, match="the process that writes for fsck has ended: -9") as found:
        fsck(ledger, kill)
    assert not isinstance(found.value, LedgerCorrupt)
    assert not writers()
    assert replayed_from(ledger) >= 40
    ledger.close()


@pytest.mark.usefixtures("beside")
def test_a_writer_that_is_left_over_is_waited_for(copy: Path) -> None:
    """Of a check that was killed: nobody goes on while it may still write."""
    interrupt(copy, 40)
    lock = os.open(copy / "ledger" / SCRATCH, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    ledger = reopen(copy)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (fsck(ledger), done.set()))
    thread.start()
    assert not done.wait(1.0)
    os.close(lock)
    assert done.wait(60.0)
    thread.join()
    ledger.close()
