"""Random lives of tags, snapshots and starts: the index from the snapshot is the one from the table."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from unittest import mock

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from core import directory as directory_module
from core.directory import TagDirectory
from core.errors import LedgerCorrupt
from core.ledger.tables import TAGS
from core.snapshot import SnapshotFile
from ledgers import REALM, reopen
from registrar import Registrar, container, freeze, institution, issue, retire, unfreeze, vault

LABELS = [f"K-{number}" for number in range(4)]
IDENTITIES = st.builds(
    lambda number, width: bytes([number]) * width,
    st.integers(1, 12),
    st.sampled_from([7, 8, 12, 16]),
)
ACTS = st.sampled_from([freeze, unfreeze, retire])


class SnapshotLife(RuleBasedStateMachine):
    """Whatever is refused changes nothing; whatever is not is followed."""

    @initialize()
    def begin(self) -> None:
        self.temporary = tempfile.TemporaryDirectory(prefix="jinku-test-")
        self.path = Path(self.temporary.name)
        self.patches = mock.patch.multiple(directory_module, SEGMENT_TAGS=3, _PART_ROWS=2)
        self.patches.start()
        self.registrar = Registrar(self.path)
        for request in (institution(), vault(), *(container(label) for label in LABELS)):
            self.registrar.accept(request)
        self.file = SnapshotFile(self.path / "snapshot", bytes(32), REALM)
        self.directory = self.open(self.file)
        self.usable = False

    def teardown(self) -> None:
        if hasattr(self, "directory"):
            self.start()
            self.registrar.ledger.close()
            self.patches.stop()
            self.temporary.cleanup()

    def open(self, file: SnapshotFile | None) -> TagDirectory:
        return TagDirectory(self.registrar.ledger, [(REALM, 1, bytearray(range(16)))], file)

    def contents(self, directory: TagDirectory) -> list[tuple[object, ...]]:
        with self.registrar.ledger.read() as state:
            rows = list(state.scan(TAGS))
        found = []
        for tag_id, row in rows:
            tag = directory.index.get(row.identity)
            assert tag is not None
            found.append((row.identity, directory.tag_id(tag.number), tag.scheme, tag.state))
            assert found[-1] == (row.identity, tag_id, row.scheme, row.state)
        assert len(directory.index) == len(rows)
        return found

    def follow(self, request: object) -> None:
        self.directory.on_committed([self.registrar.run(request).committed])  # type: ignore[arg-type]

    @rule(identity=IDENTITIES, label=st.sampled_from(LABELS), replaces=st.booleans())
    def issue(self, identity: bytes, label: str, replaces: bool) -> None:
        self.follow(issue(identity, label, replaces=replaces))

    @rule(identity=IDENTITIES, act=ACTS)
    def act(self, identity: bytes, act: object) -> None:
        self.follow(act(identity))  # type: ignore[operator]

    @rule()
    def save(self) -> None:
        self.directory.save()
        self.usable = True

    @rule(steps=st.lists(st.tuples(IDENTITIES, ACTS), max_size=4))
    def save_while_the_writer_goes_on(self, steps: list[tuple[bytes, object]]) -> None:
        copy, waiting = self.directory._copy, list(steps)

        def copy_slowly(first: int, count: int) -> object:
            copied = copy(first, count)
            if waiting:
                self.act(*waiting.pop())
            return copied

        with mock.patch.object(self.directory, "_copy", copy_slowly):
            self.directory.save()
        self.usable = True

    @rule()
    def start(self) -> None:
        """As after a kill: what the process had in memory is gone."""
        started = self.open(self.file)
        assert not started.filled.why_rebuilt or not self.usable
        assert self.contents(started) == self.contents(self.directory)
        self.directory = started

    @rule()
    def put_back_an_older_ledger(self) -> None:
        """Both fork from here: the snapshot of either must not be started from on the other."""
        kept = self.path / "kept"
        if kept.exists():
            self.registrar.ledger.close()
            shutil.rmtree(self.path / "ledger")
            kept.rename(self.path / "ledger")
            self.registrar = Registrar.of(reopen(self.path))
            self.usable = False
            try:
                self.directory = self.open(self.file)
            except LedgerCorrupt:
                # It shows that an older copy was put back: who knows that removes it.
                (self.path / "snapshot").unlink()
                self.directory = self.open(self.file)
            self.contents(self.directory)
        else:
            shutil.copytree(self.path / "ledger", kept)


TestSnapshotLife = SnapshotLife.TestCase
TestSnapshotLife.settings = settings(max_examples=25, stateful_step_count=30)
