"""The wrapping keys: files of the directory of keys, opened into locked memory.

A backup holds subjects' keys under a wrapping key, and never a wrapping key. So an erasure is
complete when the wrapping key of that time is destroyed; who is not erased is found again in the
wrap set, which has everybody's key under the wrapping key that came after it.

    keys/wrapping/<generation>.key     32 random bytes
    keys/wrapping/<generation>.wraps   the wrap set, made before the keys before it are destroyed
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from pathlib import Path
from typing import Final

from core.errors import KeyFileError, WrappingKeyMissing
from core.files import sync_directory
from core.keys import read_key, wipe, write_new_key
from core.personal import format as fmt
from core.personal.locked import LockedBytes
from core.store.v1.personal_pb2 import SubjectKeyRow, WrappingRow, WrapSet

DIRECTORY: Final = "wrapping"
KEY_SIZE: Final = 32
_FILE = re.compile(r"^([1-9]\d{0,9})\.(key|wraps)$")
_UNFINISHED: Final = ".new"


class WrappingKeys:
    """Wraps and unwraps subjects' keys. Safe to use from many threads."""

    def __init__(self, directory: Path, realm: int) -> None:
        """Of the realm whose keys lie in `directory`; nothing is read yet."""
        self._path = directory / DIRECTORY
        self._realm = realm
        self._lock = threading.RLock()
        self._memory: dict[int, LockedBytes] = {}
        self._checks: dict[int, bytes] = {}
        self._adopted: dict[bytes, bytes] = {}
        # Whom the wrap set calls erased.
        self.erased: frozenset[bytes] = frozenset()

    @classmethod
    def open(
        cls, directory: Path, realm: int, taken: WrappingRow, *, own: bool = True
    ) -> WrappingKeys:
        """The keys that are there. KeyFileError if the one the journal took last is missing or
        another, and no newer one is there.

        `own` for the process that serves: it makes the first key where there is none, and removes
        what was left half made or half destroyed.
        """
        keys = cls(directory, realm)
        if own:
            keys._path.mkdir(parents=True, exist_ok=True, mode=0o700)
            sync_directory(directory)
            keys._remove_unfinished()
        for generation in keys.generations():
            keys._load(generation)
        keys._check(taken)
        if own:
            keys.destroy_through(taken.destroyed_generation)
            if not keys.newest:
                keys.begin_next()
        if taken.destroyed_generation < keys.newest - 1 and keys.has_set:
            keys._adopt_set()
        return keys

    # -- using

    @property
    def newest(self) -> int:
        """The generation that everything is wrapped under; 0 if there is none."""
        with self._lock:
            return max(self._memory, default=0)

    def check(self, generation: int) -> bytes:
        """What tells this key from any other."""
        return self._checks[generation]

    def wrap(self, subject_id: bytes, key: bytes) -> SubjectKeyRow:
        """A subject's key under the newest wrapping key."""
        with self._lock:
            generation = self.newest
            view = self._key(generation, subject_id)
            wrapped = fmt.wrap(view, self._realm, generation, subject_id, key)
        return SubjectKeyRow(generation=generation, wrapped=wrapped)

    def unwrap(self, subject_id: bytes, row: SubjectKeyRow) -> bytes:
        """A subject's key; from the wrap set where its wrapping key is no longer there.

        LedgerCorrupt if it does not open, WrappingKeyMissing if it is in neither.
        """
        with self._lock:
            generation, wrapped = row.generation, row.wrapped
            if generation not in self._memory and subject_id in self._adopted:
                generation, wrapped = self.newest, self._adopted[subject_id]
            view = self._key(generation, subject_id)
            return fmt.unwrap(view, self._realm, generation, subject_id, wrapped)

    def can_unwrap(self, subject_id: bytes, row: SubjectKeyRow) -> bool:
        """Whether there is a wrapping key, or a wrap set, for it."""
        with self._lock:
            return row.generation in self._memory or subject_id in self._adopted

    def is_loaded(self, generation: int) -> bool:
        """Whether this wrapping key is there."""
        with self._lock:
            return generation in self._memory

    # -- replacing

    def generations(self) -> list[int]:
        """Of the key files that are there, oldest first."""
        return self._numbers("key")

    def begin_next(self) -> int:
        """Make a new wrapping key, the newest from now on; its file is durable on return."""
        generation = max((0, *self.generations(), *self._numbers("wraps"))) + 1
        self._write(self._file(generation, "key"), secrets.token_bytes(KEY_SIZE))
        self._load(generation)
        return generation

    @property
    def has_set(self) -> bool:
        """Whether the newest wrapping key's wrap set is there."""
        return self.newest in self._numbers("wraps")

    def write_set(self, wraps: WrapSet) -> None:
        """Store the wrap set of the newest wrapping key; durable on return."""
        packed = wraps.SerializeToString(deterministic=True)
        with self._lock:
            generation = self.newest
            view = self._memory[generation].view[fmt.SIV_KEY_SIZE :]
            sealed = fmt.seal_wrap_set(view, self._realm, generation, packed)
        self._write(self._file(generation, "wraps"), sealed)

    def destroy_through(self, generation: int) -> None:
        """Overwrite and remove the files of all wrapping keys up to this one, and forget them.

        Durable on return, as far as the medium obeys: see docs/operations.md. Never the newest:
        ValueError. KeyFileError, and nothing is destroyed, if the wrap set does not open that older
        backups will need.
        """
        if generation >= max(self.newest, 1):
            raise ValueError("the newest wrapping key is in use")
        if self.has_set and any(number <= generation for number in self.generations()):
            self._read_set()
        for number in self.generations():
            if number <= generation:
                _destroy(self._file(number, "key"))
                with self._lock:
                    gone = self._memory.pop(number, None)
                    if gone is not None:
                        gone.wipe()
        for number in self._numbers("wraps"):
            if number <= generation:
                self._file(number, "wraps").unlink()
        with self._lock:
            self._adopted, self.erased = {}, frozenset()
        sync_directory(self._path)

    def close(self) -> None:
        """Forget every key. Safe to call twice."""
        with self._lock:
            for memory in self._memory.values():
                memory.wipe()
            self._memory = {}
            self._adopted = {}

    # -- inside

    def _key(self, generation: int, subject_id: bytes) -> memoryview:
        memory = self._memory.get(generation)
        if memory is None:
            raise WrappingKeyMissing(
                f"key of {subject_id.hex()}: is wrapped under {self._file(generation, 'key')}, "
                "which is not there"
            )
        return memory.view[: fmt.SIV_KEY_SIZE]

    def _file(self, generation: int, suffix: str) -> Path:
        return self._path / f"{generation}.{suffix}"

    def _numbers(self, suffix: str) -> list[int]:
        if not self._path.is_dir():
            return []
        names = [_FILE.match(path.name) for path in self._path.iterdir()]
        return sorted(int(name[1]) for name in names if name and name[2] == suffix)

    def _load(self, generation: int) -> None:
        secret = read_key(self._file(generation, "key"), KEY_SIZE)
        try:
            # Zeros: its destruction was cut off, and nothing opens with it.
            if not any(secret):
                return
            memory = LockedBytes(2 * fmt.SIV_KEY_SIZE)
            view = memory.view
            fmt.derive_wrapping_keys(secret, view[: fmt.SIV_KEY_SIZE], view[fmt.SIV_KEY_SIZE :])
            with self._lock:
                self._memory[generation] = memory
                self._checks[generation] = fmt.key_check(secret, self._realm, generation)
        finally:
            wipe(secret)

    def _check(self, taken: WrappingRow) -> None:
        """The journal's newest wrapping key is there, or one that came after it."""
        generation = taken.generation
        if generation in self._checks and self._checks[generation] != taken.key_check:
            path = self._file(generation, "key")
            raise KeyFileError(f"{path}: is another wrapping key than the ledger's; put that back")
        if generation > self.newest:
            raise KeyFileError(
                f"{self._path}: lacks {generation}.key, which the ledger was given last; put the "
                "newest copy of the directory of keys back"
            )

    def _adopt_set(self) -> None:
        """A ledger was put back from before this key was made: the wrap set stands in for keys that
        are destroyed. KeyFileError if it is not what the newest key made.
        """
        wraps = self._read_set()
        self._adopted = {one.subject_id: one.wrapped for one in wraps.kept}
        self.erased = frozenset(wraps.erased)

    def _read_set(self) -> WrapSet:
        """The wrap set of the newest wrapping key, as it is on the disk."""
        generation = self.newest
        path = self._file(generation, "wraps")
        view = self._memory[generation].view[fmt.SIV_KEY_SIZE :]
        packed = fmt.open_wrap_set(view, self._realm, generation, path.read_bytes())
        if packed is None:
            raise KeyFileError(f"{path}: is not the wrap set of {generation}.key; put that back")
        return WrapSet.FromString(packed)

    def _remove_unfinished(self) -> None:
        for path in self._path.glob(f"*{_UNFINISHED}"):
            _destroy(path)

    def _write(self, path: Path, content: bytes) -> None:
        """Whole or not at all."""
        unfinished = path.with_name(path.name + _UNFINISHED)
        write_new_key(unfinished, content)
        os.rename(unfinished, path)
        sync_directory(self._path)


def _destroy(path: Path) -> None:
    """Overwrite a file with zeros, then remove its name."""
    descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW)
    try:
        os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.unlink(path)
