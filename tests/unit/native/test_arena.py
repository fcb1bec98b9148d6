"""The key arena: what it holds, refuses, and never gives back."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from native.arena import KeyArena
from native.errors import Closed

KEY = bytes(range(16))


def locked_kb() -> int:
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmLck:"))


def test_numbers_and_duplicates() -> None:
    arena = KeyArena()
    assert arena.add(1, 1, bytearray(KEY)) == 0
    assert arena.add(1, 2, bytearray(KEY)) == 1
    assert arena.add(2, 1, bytearray(16)) == 2
    assert arena.add(1, 2, bytearray(KEY)) == 1
    with pytest.raises(ValueError, match="realm 1 version 2 already holds another key"):
        arena.add(1, 2, bytearray(16))
    assert (arena.find(2, 1), arena.find(2, 2), len(arena)) == (2, None, 3)


@pytest.mark.parametrize(
    ("realm", "version", "size"), [(1, 1, 16), (-1, 1, 16), (1, 2**32, 16), (1, 1, 15), (1, 1, 17)]
)
def test_the_passed_key_is_wiped_whatever_happens(realm: int, version: int, size: int) -> None:
    key = bytearray(b"\xaa" * size)
    arena = KeyArena()
    try:
        arena.add(realm, version, key)
    except ValueError:
        assert len(arena) == 0
    assert key == bytes(size)


def test_what_cannot_be_wiped_is_refused() -> None:
    with pytest.raises(ValueError, match="key: expected a bytearray"):
        KeyArena().add(1, 1, KEY)  # type: ignore[arg-type]


def test_full() -> None:
    arena = KeyArena(2)
    for version in range(2):
        arena.add(1, version, bytearray(KEY))
    key = bytearray(KEY)
    with pytest.raises(MemoryError, match="full"):
        arena.add(1, 2, key)
    assert key == bytes(16)
    assert arena.add(1, 1, bytearray(KEY)) == 1


@pytest.mark.parametrize("capacity", [0, 257, -1, 1.5, None])
def test_capacity_that_does_not_fit(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity: expected 1 to 256"):
        KeyArena(capacity)


def test_largest_arena_numbers_fit_a_byte() -> None:
    arena = KeyArena(256)
    assert [arena.add(1, version, bytearray(KEY)) for version in range(256)] == list(range(256))


def test_after_close() -> None:
    with KeyArena() as arena:
        arena.add(1, 1, bytearray(KEY))
        assert repr(arena) == "<KeyArena of 1 keys>"
    arena.close()
    assert repr(arena) == "<KeyArena closed>"
    key = bytearray(KEY)
    for call in (lambda: arena.add(1, 1, key), lambda: arena.find(1, 1), lambda: len(arena)):
        with pytest.raises(Closed):
            call()
    assert key == bytes(16)


def test_pages_are_locked_while_the_arena_lives() -> None:
    before = locked_kb()
    arena = KeyArena()
    assert locked_kb() > before
    del arena
    assert locked_kb() == before


def test_no_public_name_gives_keys_back() -> None:
    public = {name for name in dir(KeyArena) if not name.startswith("_")}
    assert public == {"add", "find", "close"}
    with pytest.raises(TypeError):
        __import__("pickle").dumps(KeyArena())


def run_python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    ).stdout


def test_refused_lock_says_what_to_raise() -> None:
    printed = run_python(
        """
        import ctypes, resource
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (4096, 4096))
        # A process of root may lock whatever the limit: CAP_IPC_LOCK (14) goes, whoever runs this.
        header = (ctypes.c_uint32 * 2)(0x20080522, 0)
        sets = (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, sets) == 0
        for i in range(3):
            sets[i] &= ~(1 << 14)
        assert libc.capset(header, sets) == 0
        from native.arena import KeyArena
        try:
            KeyArena()
        except OSError as error:
            print(error.errno, error)
        """
    )
    assert "ulimit -l" in printed
    assert "LimitMEMLOCK" in printed


def test_forked_child_has_no_keys() -> None:
    printed = run_python(
        """
        import os
        from native.arena import KeyArena
        arena = KeyArena()
        arena.add(1, 1, bytearray(range(16)))
        child = os.fork()
        if child == 0:
            os._exit(0 if arena.find(1, 1) is None and len(arena) == 0 else 1)
        print(os.waitpid(child, 0)[1], arena.find(1, 1))
        """
    )
    assert printed.split() == ["0", "0"]


def test_core_dumps_can_be_disabled() -> None:
    printed = run_python(
        """
        import ctypes, resource
        from native.arena import disable_core_dumps
        disable_core_dumps()
        print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), resource.getrlimit(resource.RLIMIT_CORE))
        """
    )
    assert printed.split() == ["0", "(0,", "0)"]
