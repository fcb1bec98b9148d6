"""Every bulk kernel against published vectors, independent implementations and each other."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from Crypto.Cipher import AES
from Crypto.Hash import CMAC as OTHER_CMAC
from cryptography.hazmat.primitives.ciphers import algorithms
from cryptography.hazmat.primitives.cmac import CMAC

from native import an10922, cmac, cpu, sun, tam1, tam2
from native.errors import KernelUnavailable
from tag_reference import (
    Bytes,
    aes_encrypt,
    rows_of,
    sun_evidence,
    tam1_response,
    tam2_response,
    vectors,
)
from tag_reference import (
    an10922 as reference_an10922,
)

KERNELS = cpu.available()
each_kernel = pytest.mark.parametrize("kernel", KERNELS)
MESSAGE_SIZES = (0, 1, 15, 16, 17, 31, 32, 33, 64, 80)


def random_rows(seed: int, count: int, width: int) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (count, width), np.uint8)


@pytest.fixture
def only_portable() -> Iterator[None]:
    cpu.simulate_absent({"aesni"})
    yield
    cpu.simulate_absent(())


@each_kernel
@pytest.mark.parametrize("row", vectors("aes_cmac"), ids=lambda row: row["name"])
def test_cmac_vector(row: dict[str, bytes], kernel: str) -> None:
    keys, messages, macs = rows_of(row["key"]), rows_of(row["message"]), rows_of(row["mac"])
    messages = messages.reshape(1, -1)
    assert (cmac.cmac_many(keys, messages, kernel=kernel) == macs).all()
    assert cmac.verify_many(keys, messages, macs, kernel=kernel).tolist() == [1]


@each_kernel
@pytest.mark.parametrize("row", vectors("an10922"), ids=lambda row: row["name"])
def test_an10922_vector(row: dict[str, bytes], kernel: str) -> None:
    master = np.frombuffer(row["master"], np.uint8)
    keys = an10922.derive_many(master, rows_of(row["input"]), kernel=kernel)
    assert keys.tobytes() == row["key"]


@each_kernel
@pytest.mark.parametrize("row", vectors("tam1"), ids=lambda row: row["name"])
def test_tam1_vector(row: dict[str, bytes], kernel: str) -> None:
    keys, challenges = rows_of(row["key"]), rows_of(row["challenge"])
    responses = rows_of(row["response"])
    assert tam1.verify_many(keys, challenges, responses, kernel=kernel).tolist() == [tam1.RIGHT]
    assert tam1.verify_many(keys, challenges ^ 1, responses, kernel=kernel).tolist() == [2]
    assert tam1.verify_many(keys ^ 1, challenges, responses, kernel=kernel).tolist() == [0]


@each_kernel
@pytest.mark.parametrize("row", vectors("tam2"), ids=lambda row: row["name"])
def test_tam2_vector(row: dict[str, bytes], kernel: str) -> None:
    """What real tags answered: their first block carries the same constant as TAM1's."""
    keys, challenges = rows_of(row["key"]), rows_of(row["challenge"])
    responses = rows_of(row["response"])
    verdicts, data = tam2.verify_many(keys, challenges, responses, kernel=kernel)
    assert (verdicts.tolist(), data.tobytes()) == ([tam2.RIGHT], row["data"])
    for wrong_keys, wrong_challenges, outcome in (
        (keys, challenges ^ 1, tam2.OTHER_CHALLENGE),
        (keys ^ 1, challenges, tam2.FORGED),
    ):
        verdicts, data = tam2.verify_many(wrong_keys, wrong_challenges, responses, kernel=kernel)
        assert (verdicts.tolist(), data.tobytes()) == ([outcome], bytes(16))


@each_kernel
@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [0, 1, 7, 64, 65, 131])
def test_tam2_of_any_size_against_openssl(kernel: str, blocks: int, count: int) -> None:
    keys, challenges = random_rows(20, count, 16), random_rows(21, count, 10)
    memory = random_rows(22, count, 16 * blocks)
    responses = np.frombuffer(
        b"".join(
            tam2_response(k.tobytes(), c.tobytes(), m.tobytes())
            for k, c, m in zip(keys, challenges, memory, strict=True)
        ),
        np.uint8,
    ).reshape(count, 16 + 16 * blocks)
    verdicts, data = tam2.verify_many(keys, challenges, responses, kernel=kernel)
    assert verdicts.tolist() == [tam2.RIGHT] * count
    assert (data == memory).all()


@each_kernel
def test_tam2_data_are_not_authentic(kernel: str) -> None:
    """As the header says: a changed block is noise, and turns the same bits of the next."""
    key, challenge, memory = bytes(range(16)), bytes(range(10)), bytes(range(48))
    changed = bytearray(tam2_response(key, challenge, memory))
    changed[16] ^= 0x80
    verdicts, data = tam2.verify_many(
        rows_of(key), rows_of(challenge), rows_of(bytes(changed)), kernel=kernel
    )
    assert verdicts.tolist() == [tam2.RIGHT]
    assert data[0, :16].tobytes() != memory[:16]
    assert data[0, 16:].tobytes() == bytes([memory[16] ^ 0x80]) + memory[17:]


@each_kernel
@pytest.mark.parametrize("row", vectors("sun"), ids=lambda row: row["name"])
def test_sun_vector(row: dict[str, bytes], kernel: str) -> None:
    keys, uids, evidence = rows_of(row["key"]), rows_of(row["uid"]), rows_of(row["evidence"])
    assert sun_evidence(row["key"], row["uid"], 61) == row["evidence"]
    assert sun.verify_many(keys, uids, evidence, kernel=kernel).tolist() == [1]
    for wrong in ((keys ^ 1, uids, evidence), (keys, uids ^ 1, evidence)):
        assert sun.verify_many(*wrong, kernel=kernel).tolist() == [0]
    flipped = np.repeat(evidence, 88, axis=0)
    for bit in range(88):
        flipped[bit, bit // 8] ^= 1 << bit % 8
    many = [np.repeat(rows, 88, axis=0) for rows in (keys, uids)]
    assert sun.verify_many(*many, flipped, kernel=kernel).tolist() == [0] * 88


@each_kernel
@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 200])
def test_sun_against_openssl(kernel: str, count: int) -> None:
    keys, uids = random_rows(23, count, 16), random_rows(24, count, 7)
    evidence = b"".join(
        sun_evidence(key.tobytes(), uid.tobytes(), 0xFFFFFF - i)
        for i, (key, uid) in enumerate(zip(keys, uids, strict=True))
    )
    rows = np.frombuffer(evidence, np.uint8).reshape(count, 11)
    assert sun.verify_many(keys, uids, rows, kernel=kernel).tolist() == [1] * count


@each_kernel
@pytest.mark.parametrize("width", [16, 24, 32])
@pytest.mark.parametrize("size", MESSAGE_SIZES)
@pytest.mark.parametrize("count", [1, 8, 15, 16, 17, 70])
def test_keys_of_any_size_against_openssl(kernel: str, width: int, size: int, count: int) -> None:
    keys, messages = random_rows(25, count, width), random_rows(26, count, size)
    macs = cmac.cmac_many(keys, messages, kernel=kernel)
    for key, message, mac in zip(keys, messages, macs, strict=True):
        expected = CMAC(algorithms.AES(key.tobytes()))
        expected.update(message.tobytes())
        assert mac.tobytes() == expected.finalize()
    assert cmac.verify_many(keys, messages, macs, kernel=kernel).tolist() == [1] * count


@each_kernel
def test_odd_truncation(kernel: str) -> None:
    keys, messages = random_rows(27, 300, 16), random_rows(28, 300, 20)
    odd = cmac.cmac_many(keys, messages)[:, 1::2].copy()
    right = cmac.verify_many(keys, messages, odd, truncation="odd", kernel=kernel)
    assert right.tolist() == [1] * 300
    assert not cmac.verify_many(keys, messages, odd, kernel=kernel).any()
    for bit in range(64):
        odd[bit, bit // 8] ^= 1 << bit % 8
    right = cmac.verify_many(keys, messages, odd, truncation="odd", kernel=kernel)
    assert right.tolist() == [0] * 64 + [1] * 236


def test_truncations_that_are_none() -> None:
    with pytest.raises(ValueError, match="^macs: expected 8 bytes"):
        cmac.verify_many(ROWS, ROWS, ROWS, truncation="odd")
    with pytest.raises(ValueError, match="^truncation: expected"):
        cmac.verify_many(ROWS, ROWS, ROWS, truncation="even")


@each_kernel
@pytest.mark.parametrize("row", vectors("aes_128"), ids=lambda row: row["name"])
def test_aes_vector(row: dict[str, bytes], kernel: str) -> None:
    """FIPS 197 through the public functions: encryption in CMAC, decryption in TAM1."""
    key, plaintext = row["key"], row["plaintext"]
    assert aes_encrypt(key, plaintext) == row["ciphertext"]
    # The CMAC of M is AES(M ^ K1): choose M so that the cipher's input is the vector's.
    k1 = vectors_subkey(key)
    message = bytes(a ^ b for a, b in zip(plaintext, k1, strict=True))
    mac = cmac.cmac_many(rows_of(key), rows_of(message), kernel=kernel)
    assert mac.tobytes() == row["ciphertext"]


def vectors_subkey(key: bytes) -> bytes:
    shifted = int.from_bytes(aes_encrypt(key, bytes(16)), "big") << 1
    return (shifted & (1 << 128) - 1 ^ (0x87 if shifted >> 128 else 0)).to_bytes(16, "big")


@each_kernel
def test_half_a_million_random_cmacs_against_openssl(kernel: str) -> None:
    count = 500_000 // len(MESSAGE_SIZES)
    for size in MESSAGE_SIZES:
        keys, messages = random_rows(size, count, 16), random_rows(size + 1000, count, size)
        macs = cmac.cmac_many(keys, messages, kernel=kernel).tobytes()
        key_bytes, message_bytes = keys.tobytes(), messages.tobytes()
        expected = bytearray()
        for i in range(count):
            mac = CMAC(algorithms.AES128(key_bytes[16 * i : 16 * i + 16]))
            mac.update(message_bytes[size * i : size * i + size])
            expected += mac.finalize()
        assert macs == bytes(expected), f"messages of {size} bytes"


@each_kernel
def test_ten_thousand_random_cmacs_against_pycryptodome(kernel: str) -> None:
    for size in (0, 7, 16, 40):
        keys, messages = random_rows(size, 2500, 16), random_rows(size + 1, 2500, size)
        macs = cmac.cmac_many(keys, messages, kernel=kernel)
        for key, message, mac in zip(keys, messages, macs, strict=True):
            other = OTHER_CMAC.new(key.tobytes(), message.tobytes(), ciphermod=AES)
            assert mac.tobytes() == other.digest()


@each_kernel
@pytest.mark.parametrize("count", [*range(36), 63, 64, 65, 127, 129])
@pytest.mark.parametrize("size", [0, 16, 23, 4096])
def test_any_number_of_rows(kernel: str, count: int, size: int) -> None:
    """Counts that do not fill a kernel's lanes, at the end of the buffers."""
    keys, messages = random_rows(1, count, 16), random_rows(2, count, size)
    macs = cmac.cmac_many(keys, messages, kernel=kernel)
    one_by_one = [
        cmac.cmac_many(keys[i : i + 1], messages[i : i + 1], kernel="portable")
        for i in range(count)
    ]
    assert macs.tobytes() == b"".join(mac.tobytes() for mac in one_by_one)
    assert cmac.verify_many(keys, messages, macs, kernel=kernel).tolist() == [1] * count


@each_kernel
@pytest.mark.parametrize("size", range(4, 17))
def test_every_flipped_bit_of_a_mac_is_refused(kernel: str, size: int) -> None:
    key, message = random_rows(3, 1, 16), random_rows(4, 1, 16)
    mac = cmac.cmac_many(key, message)[:, :size].copy()
    macs = np.repeat(mac, size * 8 + 1, axis=0)
    for bit in range(size * 8):
        macs[bit, bit // 8] ^= 1 << bit % 8
    keys, messages = np.repeat(key, len(macs), axis=0), np.repeat(message, len(macs), axis=0)
    assert cmac.verify_many(keys, messages, macs, kernel=kernel).tolist() == [0] * size * 8 + [1]


@each_kernel
def test_every_flipped_bit_of_a_response_is_refused(kernel: str) -> None:
    key, challenge = bytes(range(16)), bytes(range(10))
    responses = rows_of(*[tam1_response(key, challenge)] * 129)
    for bit in range(128):
        responses[bit, bit // 8] ^= 1 << bit % 8
    keys = rows_of(*[key] * 129)
    outcomes = tam1.verify_many(keys, np.frombuffer(challenge, np.uint8), responses, kernel=kernel)
    assert (outcomes[:128] != tam1.RIGHT).all()
    assert outcomes[128] == tam1.RIGHT


@each_kernel
def test_tam1_against_openssl(kernel: str) -> None:
    count = 3001
    keys, challenges = random_rows(5, count, 16), random_rows(6, count, 10)
    nonces = random_rows(7, count, 4)
    columns = zip(keys, challenges, nonces, strict=True)
    responses = rows_of(
        *[tam1_response(k.tobytes(), c.tobytes(), r.tobytes()) for k, c, r in columns]
    )
    expected = np.ones(count, np.uint8)
    challenges[::3, 9] ^= 1
    expected[::3] = tam1.OTHER_CHALLENGE
    responses[::5, 3] ^= 1  # a wrong block decrypts to 96C5 once in 65,536
    expected[::5] = tam1.FORGED
    assert (tam1.verify_many(keys, challenges, responses, kernel=kernel) == expected).all()


@each_kernel
@pytest.mark.parametrize("width", [16, 24, 32])
@pytest.mark.parametrize("size", range(1, 32))
def test_diversification_against_openssl(kernel: str, size: int, width: int) -> None:
    master, inputs = random_rows(8, 1, width)[0], random_rows(9, 70, size)
    keys = an10922.derive_many(master, inputs, kernel=kernel)
    expected = [reference_an10922(master.tobytes(), row.tobytes()) for row in inputs]
    assert keys.tobytes() == b"".join(expected)


def test_portable_is_always_there_and_best_is_available() -> None:
    assert KERNELS[0] == "portable"
    assert cpu.best() == KERNELS[-1]


def test_unknown_kernel() -> None:
    with pytest.raises(ValueError, match="kernel: expected one of portable, aesni"):
        cmac.cmac_many(random_rows(0, 1, 16), random_rows(0, 1, 16), kernel="nope")
    with pytest.raises(ValueError, match="portable"):
        cpu.simulate_absent({"portable"})


@pytest.mark.usefixtures("only_portable")
def test_demanded_kernel_that_is_absent_is_refused() -> None:
    rows = random_rows(0, 3, 16)
    assert (cpu.available(), cpu.best()) == (("portable",), "portable")
    for call in (
        lambda: cmac.cmac_many(rows, rows, kernel="aesni"),
        lambda: cmac.verify_many(rows, rows, rows, kernel="aesni"),
        lambda: an10922.derive_many(rows[0], rows, kernel="aesni"),
        lambda: tam1.verify_many(rows, rows[0, :10], rows, kernel="aesni"),
        lambda: tam2.verify_many(rows, rows[0, :10], random_rows(0, 3, 32), kernel="aesni"),
        lambda: sun.verify_many(rows, random_rows(0, 3, 7), random_rows(0, 3, 11), kernel="aesni"),
    ):
        with pytest.raises(KernelUnavailable, match="'aesni' was demanded"):
            call()
    assert cmac.cmac_many(rows, rows).shape == (3, 16)


ROWS = random_rows(0, 4, 16)


@pytest.mark.parametrize(
    ("keys", "messages", "named"),
    [
        (ROWS[:, :15].copy(), ROWS, "keys"),
        (ROWS.astype(np.int8), ROWS, "keys"),
        (ROWS[:, ::-1], ROWS, "keys"),
        (ROWS[::2], ROWS[:2], "keys"),
        (ROWS.tobytes(), ROWS, "keys"),
        (ROWS[0], ROWS, "keys"),
        (ROWS, ROWS[:3], "messages"),
        (ROWS, ROWS.astype(np.uint16), "messages"),
        (ROWS, np.asfortranarray(ROWS), "messages"),
        (ROWS, None, "messages"),
        (ROWS, np.zeros((4, 4097), np.uint8), "messages"),
    ],
)
def test_arrays_that_do_not_fit(keys: Bytes, messages: Bytes, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        cmac.cmac_many(keys, messages)
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        cmac.verify_many(keys, messages, ROWS)


@pytest.mark.parametrize("size", [3, 17])
def test_macs_of_a_wrong_size(size: int) -> None:
    with pytest.raises(ValueError, match="^macs: expected 4 to 16"):
        cmac.verify_many(ROWS, ROWS, np.zeros((4, size), np.uint8))


@pytest.mark.parametrize("size", [0, 32])
def test_diversification_inputs_of_a_wrong_size(size: int) -> None:
    with pytest.raises(ValueError, match="^inputs: expected 1 to 31"):
        an10922.derive_many(ROWS[0], np.zeros((4, size), np.uint8))


def test_tam1_arrays_that_do_not_fit() -> None:
    for challenges, responses, named in (
        (ROWS[0, :9].copy(), ROWS, "challenges"),
        (ROWS[:3, :10].copy(), ROWS, "challenges"),
        (None, ROWS, "challenges"),
        (ROWS[0, :10].copy(), ROWS[:, :12].copy(), "responses"),
    ):
        with pytest.raises(ValueError, match=f"^{named}: expected"):
            tam1.verify_many(ROWS, challenges, responses)  # type: ignore[arg-type]


def test_masters_of_a_wrong_size() -> None:
    for size in (0, 15, 17, 33):
        with pytest.raises(ValueError, match="^master: expected 16, 24 or 32"):
            an10922.derive_many(np.zeros(size, np.uint8), ROWS)


def test_tam2_and_sun_arrays_that_do_not_fit() -> None:
    for width in (0, 16, 31, 40, 96):
        with pytest.raises(ValueError, match="^responses: expected"):
            tam2.verify_many(ROWS, ROWS[0, :10].copy(), np.zeros((4, width), np.uint8))
    with pytest.raises(ValueError, match="^uids: expected"):
        sun.verify_many(ROWS, np.zeros((4, 8), np.uint8), np.zeros((4, 11), np.uint8))
    with pytest.raises(ValueError, match="^evidence: expected"):
        sun.verify_many(ROWS, np.zeros((4, 7), np.uint8), np.zeros((4, 12), np.uint8))


def test_inputs_may_be_read_only() -> None:
    rows = ROWS.copy()
    rows.flags.writeable = False
    assert (cmac.cmac_many(rows, rows) == cmac.cmac_many(ROWS, ROWS)).all()


class Lesser(np.ndarray[tuple[int, int], np.dtype[np.uint8]]):
    """Says that it has one row."""

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        return (1, 16)


def test_an_array_of_another_class_is_refused() -> None:
    """It may say what it likes of its shape, or have a mask that nobody heeds."""
    rows = random_rows(1, 40, 16)
    for keys in (rows.view(Lesser), np.ma.array(rows, mask=True)):
        with pytest.raises(ValueError, match="keys: expected a C-contiguous uint8 array"):
            cmac.cmac_many(keys, random_rows(2, 1, 16))
