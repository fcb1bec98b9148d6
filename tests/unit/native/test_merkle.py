"""The hashes of Merkle trees: public vectors, OpenSSL's SHA-256, and the kernels against each other."""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from native import cpu, merkle
from native.errors import KernelUnavailable

KERNELS = cpu.available("sha256")
each_kernel = pytest.mark.parametrize("kernel", KERNELS)
RFC6962 = json.loads((Path(__file__).parents[2] / "vectors" / "rfc6962.json").read_text())


def pack(*fields: bytes) -> bytes:
    return b"".join(struct.pack(">I", len(field)) + field for field in fields)


def leaf_hash(header: bytes, events: bytes) -> bytes:
    return sha256(b"\x00" + header + sha256(events).digest()).digest()


@pytest.fixture
def only_portable() -> Iterator[None]:
    cpu.simulate_absent({"shani"})
    yield
    cpu.simulate_absent(())


@each_kernel
def test_reference_tree(kernel: str) -> None:
    """Eight leaves of RFC 6962's implementations, level by level up to the root."""
    leaves = [sha256(b"\x00" + bytes.fromhex(leaf)).digest() for leaf in RFC6962["leaves"]]
    level = np.frombuffer(b"".join(leaves), np.uint8).reshape(8, 32)
    for size in (2, 4, 8):
        level = merkle.node_hashes(level, kernel=kernel)
        assert level[0].tobytes().hex() == RFC6962["roots"][size - 1]


@each_kernel
def test_leaves_of_every_size(kernel: str) -> None:
    """Around every boundary of a block, in header and in events."""
    chance = random.Random(1)
    entries = [(chance.randbytes(size), chance.randbytes(300 - size)) for size in range(301)]
    packed = pack(*(field for entry in entries for field in entry))
    hashes = merkle.leaf_hashes(packed, merkle.split(packed), kernel=kernel)
    assert [row.tobytes() for row in hashes] == [leaf_hash(*entry) for entry in entries]


@each_kernel
@pytest.mark.parametrize("count", [0, 1, 2, 3, 255, 256])
def test_nodes_of_any_count(kernel: str, count: int) -> None:
    children = np.random.default_rng(count).integers(0, 256, (2 * count, 32), np.uint8)
    parents = merkle.node_hashes(children, kernel=kernel)
    pairs = [children[2 * at : 2 * at + 2].tobytes() for at in range(count)]
    assert [row.tobytes() for row in parents] == [sha256(b"\x01" + p).digest() for p in pairs]


def test_fields_are_where_they_lie() -> None:
    packed = pack(b"", b"abc", b"")
    assert merkle.split(packed).tolist() == [[4, 4], [8, 11], [15, 15]]
    assert merkle.split(b"").shape == (0, 2)
    assert merkle.leaf_hashes(b"", merkle.split(b"")).shape == (0, 32)


@pytest.mark.parametrize("cut", [1, 2, 3, 4, 6])
def test_sizes_that_do_not_add_up(cut: int) -> None:
    with pytest.raises(ValueError, match="packed: a size is cut off, or what it announces is"):
        merkle.split(pack(b"ab", b"abc")[:-cut])
    with pytest.raises(ValueError, match="packed"):
        merkle.split(b"\xff\xff\xff\xff")


def test_what_does_not_fit_is_named() -> None:
    packed = pack(b"a", b"b")
    fields = merkle.split(packed)
    for wrong in ([[4, 5], [9, 11]], [[5, 4], [9, 10]], [[4, 5], [2**63, 2**63]]):
        with pytest.raises(ValueError, match="does not lie in the 10 bytes"):
            merkle.leaf_hashes(packed, np.array(wrong, np.uint64))
    with pytest.raises(ValueError, match="two rows for each entry, got 1"):
        merkle.leaf_hashes(packed, fields[:1])
    with pytest.raises(ValueError, match="fields: expected a C-contiguous uint64"):
        merkle.leaf_hashes(packed, fields.astype(np.int64))
    with pytest.raises(ValueError, match="packed: expected bytes, got bytearray"):
        merkle.split(bytearray(packed))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected pairs, got 3"):
        merkle.node_hashes(np.zeros((3, 32), np.uint8))
    with pytest.raises(ValueError, match="children"):
        merkle.node_hashes(np.zeros((2, 31), np.uint8))


@pytest.mark.usefixtures("only_portable")
def test_demanded_kernel_that_is_absent_is_refused() -> None:
    assert (cpu.available("sha256"), cpu.best("sha256")) == (("portable",), "portable")
    assert cpu.available() == cpu.available("aes")
    with pytest.raises(KernelUnavailable, match="'shani' was demanded"):
        merkle.node_hashes(np.zeros((2, 32), np.uint8), kernel="shani")
    with pytest.raises(ValueError, match="algorithm: expected 'aes' or 'sha256'"):
        cpu.available("md5")  # type: ignore[arg-type]


CHANGED_MEANWHILE = """
import threading
from native import merkle
packed = b"".join(b"\\0\\0\\0\\4abcd" for _ in range(200_000))
fields = merkle.split(packed)
ended = False
def change():
    while not ended:
        fields[-1, 1] = 1 << 40
        fields[-1, 1] = len(packed)
changing = threading.Thread(target=change)
changing.start()
for _ in range(40):
    try:
        merkle.leaf_hashes(packed, fields)
    except ValueError:
        pass
ended = True
changing.join()
"""


def test_fields_that_another_thread_changes_are_those_that_were_checked() -> None:
    """Else the process ends, with what lies 1 TiB after the bytes asked for."""
    assert subprocess.run([sys.executable, "-c", CHANGED_MEANWHILE], check=False).returncode == 0
