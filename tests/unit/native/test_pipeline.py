"""The read pipeline: each verdict, in its order; counters under two threads; what it refuses."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from native import cpu, pipeline
from native.arena import KeyArena
from native.errors import Closed, KernelUnavailable
from native.pipeline import (
    BAD_EVIDENCE,
    COUNTER_CMAC,
    COUNTER_CMAC_16,
    GENUINE,
    MALFORMED,
    NO_EVIDENCE,
    NONE,
    NOT_ACTIVE,
    REPLAYED,
    SUN,
    TAM1,
    TAM2,
    UNKNOWN_TAG,
    BatchVerdicts,
    verify_batch,
)
from native.tagindex import ACTIVE, FROZEN, RETIRED, TagIndex
from tag_reference import (
    CHALLENGED,
    counter_evidence,
    evidence_for,
    rows_of,
    tag_key,
    tam1_response,
    tam2_response,
)

each_kernel = pytest.mark.parametrize("kernel", cpu.available())
each_width = pytest.mark.parametrize("width", [7, 8, 12, 16])

MASTERS = [bytes(range(16)), b"\xc3" * 16]
REALMS = [7, 0xFFFFFFFE]
CHALLENGE = b"challenge!"
KNOWN = np.zeros(256, np.uint8)
KNOWN[:4] = 1


def make_arena() -> KeyArena:
    arena = KeyArena()
    for realm, master in zip(REALMS, MASTERS, strict=True):
        arena.add(realm, 1, bytearray(master))
    return arena


def name(number: int, width: int) -> bytes:
    return (b"T%06d" % number).ljust(width, b"\xee")


def key_of(identity: bytes, key: int = 0) -> bytes:
    return tag_key(MASTERS[key], identity, REALMS[key])


def judge(
    index: TagIndex,
    arena: KeyArena,
    scheme: int,
    identities: list[bytes],
    evidence: list[bytes],
    challenge: bytes | None = None,
    **columns: Any,
) -> BatchVerdicts:
    count = len(identities)
    kernel = columns.pop("kernel", None)
    given: dict[str, Any] = {
        "antennas": np.zeros(count, np.uint8),
        "known_antennas": KNOWN,
        "channels": np.zeros(count, np.uint8),
        "channel_count": 50,
    }
    given.update(columns)
    return verify_batch(
        index,
        arena,
        scheme,
        rows_of(*identities),
        rows_of(*evidence),
        *given.values(),
        challenge,
        kernel=kernel,
    )


@each_kernel
@each_width
def test_tam1(kernel: str, width: int) -> None:
    index, arena = TagIndex(), make_arena()
    names = [name(i, width) for i in range(8)]
    for i, identity in enumerate(names[:7]):
        index.put(
            identity, TAM1, (ACTIVE, ACTIVE, ACTIVE, ACTIVE, FROZEN, RETIRED, ACTIVE)[i], i % 2
        )
    index.put(names[6], COUNTER_CMAC, ACTIVE, 0)
    right = [tam1_response(key_of(identity, i % 2), CHALLENGE) for i, identity in enumerate(names)]
    right[1] = right[0]  # another tag's answer
    right[2] = bytes(16)
    right[3] = tam1_response(key_of(names[3], 1), b"challenge?")
    expected = [
        GENUINE, BAD_EVIDENCE, NO_EVIDENCE, REPLAYED, NOT_ACTIVE, NOT_ACTIVE, BAD_EVIDENCE, UNKNOWN_TAG,
    ]  # fmt: skip
    result = judge(index, arena, TAM1, names, right, CHALLENGE, kernel=kernel)
    assert result.verdicts.tolist() == expected
    assert result.numbers.tolist() == [0, 1, 2, 3, 4, 5, 6, 0xFFFFFFFF]
    assert result.counts.tolist() == [0, 1, 1, 2, 1, 2, 1, 0]
    assert result.advanced_numbers.shape == result.advanced_counters.shape == (0,)
    # The same without a valid challenge: what answers any challenge is stale, the rest is wrong.
    result = judge(index, arena, TAM1, names, right, None, kernel=kernel)
    stale = [REPLAYED if v in {GENUINE, REPLAYED, NOT_ACTIVE} else v for v in expected]
    assert result.verdicts.tolist() == stale


@each_kernel
@each_width
def test_counters(kernel: str, width: int) -> None:
    index, arena = TagIndex(), make_arena()
    names = [name(i, width) for i in range(3)]
    for identity, state in zip(names, (ACTIVE, FROZEN, ACTIVE), strict=True):
        index.put(identity, COUNTER_CMAC, state, 1)
    keys = [key_of(identity, 1) for identity in names]
    index.set_counter(names[0], 9)
    reads = [(0, 9), (0, 10), (0, 10), (0, 12), (0, 11), (1, 1), (1, 1), (2, 0), (2, 0xFFFFFFFF)]
    evidence = [counter_evidence(keys[tag], counter) for tag, counter in reads]
    forged = counter_evidence(keys[2], 5)
    reads.append((2, 5))
    evidence.append(forged[:-1] + bytes([forged[-1] ^ 1]))
    result = judge(
        index, arena, COUNTER_CMAC, [names[tag] for tag, _ in reads], evidence, kernel=kernel
    )
    assert result.verdicts.tolist() == [
        REPLAYED, GENUINE, REPLAYED, GENUINE, REPLAYED, NOT_ACTIVE, REPLAYED, REPLAYED, GENUINE, BAD_EVIDENCE,
    ]  # fmt: skip
    assert result.advanced_numbers.tolist() == [0, 0, 1, 2]
    assert result.advanced_counters.tolist() == [10, 12, 1, 0xFFFFFFFF]
    stored = [index.get(identity) for identity in names]
    assert [tag.counter for tag in stored if tag] == [12, 1, 0xFFFFFFFF]


@each_kernel
def test_every_flipped_bit_of_counter_evidence_is_refused(kernel: str) -> None:
    index, arena = TagIndex(), make_arena()
    index.put(b"1234567", COUNTER_CMAC, ACTIVE, 0)
    evidence = counter_evidence(key_of(b"1234567"), 0x01020304)
    flipped = [bytearray(evidence) for _ in range(96)]
    for bit, row in enumerate(flipped):
        row[bit // 8] ^= 1 << bit % 8
    rows = [*map(bytes, flipped), evidence]
    result = judge(index, arena, COUNTER_CMAC, [b"1234567"] * 97, rows, kernel=kernel)
    assert result.verdicts.tolist() == [BAD_EVIDENCE] * 96 + [GENUINE]


def test_none_never_makes_a_tag_genuine() -> None:
    index, arena = TagIndex(), make_arena()
    index.put(b"1234567", NONE, ACTIVE, 0)
    index.put(b"2234567", TAM1, ACTIVE, 0)
    names = [b"1234567", b"2234567", b"3234567", bytes(7)]
    result = judge(index, arena, NONE, names, [b""] * 4)
    assert result.verdicts.tolist() == [NO_EVIDENCE, NO_EVIDENCE, UNKNOWN_TAG, MALFORMED]
    # A tag registered without a scheme has no right answer in any other.
    result = judge(index, arena, TAM1, names[:1], [b"x" * 16], CHALLENGE)
    assert result.verdicts.tolist() == [BAD_EVIDENCE]


def test_malformed_comes_before_everything() -> None:
    index, arena = TagIndex(), make_arena()
    index.put(b"1234567", TAM1, ACTIVE, 0)
    response = tam1_response(key_of(b"1234567"), CHALLENGE)
    columns = {
        "antennas": np.array([3, 4, 0, 0, 0], np.uint8),
        "channels": np.array([49, 0, 50, 255, 0], np.uint8),
    }
    names = [b"1234567"] * 4 + [bytes(7)]
    result = judge(index, arena, TAM1, names, [response] * 5, CHALLENGE, **columns)
    assert result.verdicts.tolist() == [GENUINE] + [MALFORMED] * 4
    assert result.numbers.tolist() == [0] + [0xFFFFFFFF] * 4
    nothing = judge(index, arena, TAM1, names, [response] * 5, CHALLENGE, channel_count=0)
    assert nothing.verdicts.tolist() == [MALFORMED] * 5


def test_a_key_that_is_not_loaded_verifies_nothing() -> None:
    index, arena = TagIndex(), make_arena()
    index.put(b"1234567", TAM1, ACTIVE, 2)
    response = tam1_response(key_of(b"1234567"), CHALLENGE)
    assert judge(index, arena, TAM1, [b"1234567"], [response], CHALLENGE).verdicts == [BAD_EVIDENCE]
    arena.add(3, 1, bytearray(MASTERS[0]))
    assert judge(index, arena, TAM1, [b"1234567"], [response], CHALLENGE).verdicts == [BAD_EVIDENCE]


@each_kernel
@pytest.mark.parametrize("count", [0, 1, 31, 33, 127, 128, 129, 300])
def test_batches_of_any_size_with_many_keys(kernel: str, count: int) -> None:
    arena, index = KeyArena(256), TagIndex()
    masters = [bytes([i]) * 16 for i in range(200)]
    for realm, master in enumerate(masters):
        arena.add(realm, 1, bytearray(master))
    names = [name(i, 12) for i in range(count)]
    for i, identity in enumerate(names):
        index.put(identity, COUNTER_CMAC, ACTIVE, i * 7 % 200)
    evidence = [
        counter_evidence(tag_key(masters[i * 7 % 200], identity, i * 7 % 200), i + 1)
        for i, identity in enumerate(names)
    ]
    result = verify_batch(
        index,
        arena,
        COUNTER_CMAC,
        np.frombuffer(b"".join(names), np.uint8).reshape(count, 12),
        np.frombuffer(b"".join(evidence), np.uint8).reshape(count, 12),
        np.zeros(count, np.uint8),
        KNOWN,
        np.zeros(count, np.uint8),
        1,
        None,
        kernel=kernel,
    )
    assert result.verdicts.tolist() == [GENUINE] * count
    assert result.advanced_counters.tolist() == list(range(1, count + 1))
    assert result.counts.sum() == count


def test_equal_counters_raced_by_two_threads_win_once() -> None:
    index, arena = TagIndex(), make_arena()
    names = [name(i, 12) for i in range(400)]
    for identity in names:
        index.put(identity, COUNTER_CMAC, ACTIVE, 0)
    keys = [key_of(identity) for identity in names]
    identities, zeros = rows_of(*names), np.zeros(400, np.uint8)
    for counter in range(1, 20):
        evidence = rows_of(*[counter_evidence(key, counter) for key in keys])
        results: list[BatchVerdicts] = []
        barrier = threading.Barrier(2)

        def race(evidence: Any = evidence, results: Any = results, barrier: Any = barrier) -> None:
            barrier.wait()
            results.append(
                verify_batch(
                    index, arena, COUNTER_CMAC, identities, evidence, zeros, KNOWN, zeros, 1, None
                )
            )

        threads = [threading.Thread(target=race) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        verdicts = np.sort(np.stack([result.verdicts for result in results]), axis=0)
        assert verdicts.tolist() == [[GENUINE] * 400, [REPLAYED] * 400]
        assert sum(len(result.advanced_numbers) for result in results) == 400


def test_turns_and_marks_are_what_verdicts_follow_from() -> None:
    """Batches of several threads while tags are frozen: judged again one by one, in the order of their
    turns and each as of its mark, every verdict is the same."""
    index, arena = TagIndex(16), make_arena()
    names = [name(i, 12) for i in range(300)]
    index.put_all([(identity, COUNTER_CMAC, ACTIVE, 0) for identity in names], 1)
    identities, zeros = rows_of(*names), np.zeros(300, np.uint8)
    evidence = [
        rows_of(*[counter_evidence(key_of(identity), counter) for identity in names])
        for counter in range(1, 9)
    ]
    judged: list[tuple[int, BatchVerdicts]] = []

    def verify(index: TagIndex, counter: int) -> BatchVerdicts:
        given = (identities, evidence[counter], zeros, KNOWN, zeros, 1, None)
        return verify_batch(index, arena, COUNTER_CMAC, *given)

    def ride(which: int) -> None:
        chance = np.random.default_rng(which)
        counters = sorted(chance.integers(0, 8, 40).tolist())
        judged.extend((counter, verify(index, counter)) for counter in counters)

    threads = [threading.Thread(target=ride, args=(which,)) for which in range(3)]
    for thread in threads:
        thread.start()
    frozen: dict[int, list[tuple[bytes, int, int, int]]] = {}
    mark = 1
    while any(thread.is_alive() for thread in threads):
        mark += 1
        state = FROZEN if mark % 2 else ACTIVE
        frozen[mark] = [(names[(mark + at) % 300], COUNTER_CMAC, state, 0) for at in range(50)]
        index.put_all(frozen[mark], mark)
    assert index.mark == mark
    assert index.turns == len(judged) == 120
    judged.sort(key=lambda one: one[1].turn)
    assert [one.turn for _, one in judged] == list(range(120))
    again = TagIndex(16)
    again.put_all([(identity, COUNTER_CMAC, ACTIVE, 0) for identity in names], 1)
    for counter, before in judged:
        while again.mark < before.mark:
            again.put_all(frozen[again.mark + 1], again.mark + 1)
        assert again.mark == before.mark
        after = verify(again, counter)
        assert after.verdicts.tolist() == before.verdicts.tolist()
        assert after.turn == before.turn
    # A batch without counters takes no turn.
    tam1 = verify_batch(
        index, arena, TAM1, identities, rows_of(*[b"answer of the tag"[:16]] * 300), zeros, KNOWN,
        zeros, 1, CHALLENGE,
    )  # fmt: skip
    assert (tam1.turn, index.turns, tam1.mark) == (120, 120, mark)


def test_batches_go_on_while_tags_are_put() -> None:
    index, arena = TagIndex(16), make_arena()
    names = [name(i, 12) for i in range(200)]
    for identity in names:
        index.put(identity, TAM1, ACTIVE, 0)
    rows = rows_of(*names)
    evidence = rows_of(*[tam1_response(key_of(identity), CHALLENGE) for identity in names])
    zeros = np.zeros(200, np.uint8)
    stop = threading.Event()
    wrong: list[object] = []
    batches = [0, 0]

    def verify(which: int) -> None:
        while not stop.is_set():
            result = verify_batch(
                index, arena, TAM1, rows, evidence, zeros, KNOWN, zeros, 1, CHALLENGE
            )
            if result.counts[GENUINE] != 200 or (result.numbers != np.arange(200)).any():
                wrong.append(result)
            batches[which] += 1

    threads = [threading.Thread(target=verify, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    others = np.random.default_rng(1).integers(1, 256, (60_000, 16), np.uint8)
    column = np.ones(100, np.uint8)
    for start in range(0, len(others), 100):
        index.put_many(others[start : start + 100], column, column, column)
        index.put(names[0], TAM1, ACTIVE, 0)
        arena.find(REALMS[0], 1)
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(batches) > 0
    assert len(index) == 60_200


def test_closing_the_arena_waits_for_batches_and_ends_them() -> None:
    index, arena = TagIndex(), make_arena()
    index.put(b"1234567", TAM1, ACTIVE, 0)
    names, response = [b"1234567"] * 500, tam1_response(key_of(b"1234567"), CHALLENGE)
    started, ended = threading.Event(), threading.Event()
    counts: set[int] = set()

    def verify() -> None:
        try:
            while True:
                result = judge(index, arena, TAM1, names, [response] * 500, CHALLENGE)
                counts.add(int(result.counts[GENUINE]))
                started.set()
        except Closed:
            ended.set()

    thread = threading.Thread(target=verify)
    thread.start()
    started.wait()
    arena.close()
    thread.join()
    assert ended.is_set()
    assert counts == {500}


ONE = np.zeros(1, np.uint8)
ARGUMENTS: dict[str, Any] = {
    "scheme": TAM1,
    "identities": np.ones((1, 12), np.uint8),
    "evidence": np.ones((1, 16), np.uint8),
    "antennas": ONE,
    "known_antennas": KNOWN,
    "channels": ONE,
    "channel_count": 1,
    "challenge": CHALLENGE,
}


@pytest.mark.parametrize(
    ("named", "value"),
    [
        ("scheme", 0),
        ("scheme", 7),
        ("scheme", "TAM1"),
        ("identities", np.ones((1, 9), np.uint8)),
        ("identities", np.ones((1, 12), np.uint16)),
        ("identities", b"1234567"),
        ("evidence", np.ones((1, 12), np.uint8)),
        ("evidence", np.ones((2, 16), np.uint8)),
        ("antennas", np.zeros(2, np.uint8)),
        ("known_antennas", np.zeros(255, np.uint8)),
        ("channels", np.zeros((1, 1), np.uint8)),
        ("channel_count", 257),
        ("channel_count", -1),
        ("challenge", b"short"),
        ("challenge", bytearray(10)),
        ("kernel", "nope"),
    ],
)
def test_arguments_that_do_not_fit(named: str, value: object) -> None:
    arguments = {**ARGUMENTS, named: value}
    with pytest.raises(ValueError, match=f"^{named}: expected"):
        verify_batch(TagIndex(), make_arena(), **arguments)


def test_other_schemes_take_no_challenge() -> None:
    arguments = {**ARGUMENTS, "scheme": NONE, "evidence": np.ones((1, 0), np.uint8)}
    with pytest.raises(ValueError, match="^challenge: expected None"):
        verify_batch(TagIndex(), make_arena(), **arguments)


def test_objects_of_other_types() -> None:
    for index, arena in ((None, make_arena()), (TagIndex(), None), (TagIndex(), TagIndex())):
        with pytest.raises(TypeError):
            verify_batch(index, arena, **ARGUMENTS)  # type: ignore[arg-type]


def test_closed_arena_and_absent_kernel() -> None:
    arena = make_arena()
    cpu.simulate_absent({"aesni"})
    try:
        with pytest.raises(KernelUnavailable):
            verify_batch(TagIndex(), arena, **ARGUMENTS, kernel="aesni")
    finally:
        cpu.simulate_absent(())
    arena.close()
    with pytest.raises(Closed):
        verify_batch(TagIndex(), arena, **ARGUMENTS)


def test_sizes_of_evidence() -> None:
    schemes = (NONE, TAM1, COUNTER_CMAC, SUN, COUNTER_CMAC_16)
    assert [pipeline.evidence_size(scheme) for scheme in schemes] == [0, 16, 12, 11, 20]
    assert [pipeline.evidence_size(TAM2, blocks) for blocks in range(1, 5)] == [32, 48, 64, 80]
    for scheme, blocks in ((TAM2, 0), (TAM2, 5), (TAM1, 1)):
        with pytest.raises(ValueError, match="^blocks: expected"):
            pipeline.evidence_size(scheme, blocks)


@each_kernel
@each_width
@pytest.mark.parametrize("blocks", [1, 2, 3, 4])
def test_tam2(kernel: str, width: int, blocks: int) -> None:
    index, arena = TagIndex(), make_arena()
    names = [name(i, width) for i in range(8)]
    states = (ACTIVE, ACTIVE, ACTIVE, ACTIVE, FROZEN, RETIRED, ACTIVE)
    for i, identity in enumerate(names[:7]):
        index.put(identity, TAM2, states[i], i % 2)
    index.put(names[6], TAM1, ACTIVE, 0)
    memory = [bytes([i]) * 16 * blocks for i in range(8)]
    right = [
        tam2_response(key_of(identity, i % 2), CHALLENGE, memory[i])
        for i, identity in enumerate(names)
    ]
    right[1] = right[0]  # another tag's answer
    right[2] = bytes(16 + 16 * blocks)
    right[3] = tam2_response(key_of(names[3], 1), b"challenge?", memory[3])
    expected = [
        GENUINE, BAD_EVIDENCE, NO_EVIDENCE, REPLAYED, NOT_ACTIVE, NOT_ACTIVE, BAD_EVIDENCE, UNKNOWN_TAG,
    ]  # fmt: skip
    result = judge(index, arena, TAM2, names, right, CHALLENGE, kernel=kernel)
    assert result.verdicts.tolist() == expected
    assert result.data is not None
    nothing = bytes(16 * blocks)
    assert [row.tobytes() for row in result.data] == [memory[0]] + [nothing] * 7
    assert result.advanced_numbers.shape == (0,)
    result = judge(index, arena, TAM2, names, right, None, kernel=kernel)
    stale = [REPLAYED if v in {GENUINE, REPLAYED, NOT_ACTIVE} else v for v in expected]
    assert result.verdicts.tolist() == stale
    assert result.data is not None
    assert not result.data.any()


@each_kernel
@pytest.mark.parametrize(
    ("scheme", "width", "most"),
    [(SUN, 7, 0xFFFFFF), (COUNTER_CMAC_16, 7, 0xFFFFFFFF), (COUNTER_CMAC_16, 16, 0xFFFFFFFF)],
)
def test_other_counters(kernel: str, scheme: int, width: int, most: int) -> None:
    index, arena = TagIndex(), make_arena()
    names = [name(i, width) for i in range(3)]
    for identity, state in zip(names, (ACTIVE, FROZEN, ACTIVE), strict=True):
        index.put(identity, scheme, state, 1)

    def answer(tag: int, counter: int) -> bytes:
        return evidence_for(scheme, key_of(names[tag], 1), names[tag], counter, b"")

    index.set_counter(names[0], 0x10009)
    reads = [
        (0, 0x10009), (0, 0x1000A), (0, 0x1000A), (0, 0x1000C), (0, 9), (1, 1), (1, 1), (2, 0), (2, most),
    ]  # fmt: skip
    evidence = [answer(tag, counter) for tag, counter in reads]
    forged = answer(2, 5)
    size = len(forged)
    for bit in range(size * 8):
        wrong = bytearray(forged)
        wrong[bit // 8] ^= 1 << bit % 8
        evidence.append(bytes(wrong))
    rows = [names[tag] for tag, _ in reads] + [names[2]] * size * 8
    result = judge(index, arena, scheme, rows, evidence, kernel=kernel)
    assert result.verdicts.tolist() == [
        REPLAYED, GENUINE, REPLAYED, GENUINE, REPLAYED, NOT_ACTIVE, REPLAYED, REPLAYED, GENUINE,
    ] + [BAD_EVIDENCE] * size * 8  # fmt: skip
    assert result.advanced_numbers.tolist() == [0, 0, 1, 2]
    assert result.advanced_counters.tolist() == [0x1000A, 0x1000C, 1, most]
    assert result.data is None


@each_kernel
def test_no_scheme_stands_in_for_another(kernel: str) -> None:
    """Every tag answers rightly under every scheme; only its own counts."""
    schemes = (TAM1, COUNTER_CMAC, TAM2, SUN, COUNTER_CMAC_16)
    names = [name(i, 7) for i in range(6)]
    for asked in schemes:
        index, arena = TagIndex(), make_arena()
        for identity, registered in zip(names, (*schemes, NONE), strict=True):
            index.put(identity, registered, ACTIVE, 0)
        evidence = [
            evidence_for(asked, key_of(identity), identity, 1, CHALLENGE) for identity in names
        ]
        challenge = CHALLENGE if asked in CHALLENGED else None
        result = judge(index, arena, asked, names, evidence, challenge, kernel=kernel)
        assert result.verdicts.tolist() == [
            GENUINE if registered == asked else BAD_EVIDENCE for registered in (*schemes, NONE)
        ]


def test_sun_needs_a_uid() -> None:
    arguments = {**ARGUMENTS, "scheme": SUN, "evidence": np.ones((1, 11), np.uint8)}
    with pytest.raises(ValueError, match="^identities: expected rows of 7 bytes for SUN"):
        verify_batch(TagIndex(), make_arena(), **arguments)


@pytest.mark.parametrize("width", [0, 16, 31, 33, 47, 81, 96])
def test_tam2_evidence_that_is_no_number_of_blocks(width: int) -> None:
    arguments = {**ARGUMENTS, "scheme": TAM2, "evidence": np.ones((1, width), np.uint8)}
    with pytest.raises(ValueError, match="^evidence: expected"):
        verify_batch(TagIndex(), make_arena(), **arguments)


def test_every_verdict_is_explained_by_a_state_of_its_time() -> None:
    """States flip and the table grows while two threads verify: no read sees what never was."""
    index, arena = TagIndex(16), make_arena()
    names = [name(i, 12) for i in range(64)]
    for identity in names:
        index.put(identity, TAM1, ACTIVE, 0)
    rows = rows_of(*names)
    evidence = rows_of(*[tam1_response(key_of(identity), CHALLENGE) for identity in names])
    zeros, fresh = np.zeros(64, np.uint8), np.random.default_rng(2)
    # Tag i flips before generation g when bit i % 6 of g changes; the state of a generation is known.
    generation = [0, 0]  # begun, finished
    stop, wrong, batches = threading.Event(), list[object](), [0, 0]
    states = (ACTIVE, FROZEN, ACTIVE, RETIRED)

    def state_in(tag: int, at: int) -> int:
        return states[(at >> tag % 6) % 4]

    def verify(which: int) -> None:
        while not stop.is_set():
            finished = generation[1]
            result = verify_batch(
                index, arena, TAM1, rows, evidence, zeros, KNOWN, zeros, 1, CHALLENGE
            )
            begun = generation[0]
            for tag, verdict in enumerate(result.verdicts.tolist()):
                possible = {
                    GENUINE if state_in(tag, at) == ACTIVE else NOT_ACTIVE
                    for at in range(finished, begun + 1)
                }
                if verdict not in possible or result.numbers[tag] != tag:
                    wrong.append((which, tag, verdict, finished, begun))
            batches[which] += 1

    threads = [threading.Thread(target=verify, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    column = np.ones(300, np.uint8)
    for at in range(1, 400):
        generation[0] = at
        for tag, identity in enumerate(names):
            if state_in(tag, at) != state_in(tag, at - 1):
                assert index.set_state(identity, state_in(tag, at))
        index.put_many(fresh.integers(1, 256, (300, 16), np.uint8), column, column, column)
        generation[1] = at
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert min(batches) > 0
    assert len(index) == 64 + 399 * 300


@pytest.mark.parametrize(("scheme", "width"), [(COUNTER_CMAC, 12), (SUN, 7)])
def test_a_counter_advances_to_what_its_mac_was_for(scheme: int, width: int) -> None:
    """Though another thread writes to the evidence all the time."""
    names = [name(i, width) for i in range(400)]
    good = rows_of(*[evidence_for(scheme, key_of(each), each, 5, b"") for each in names])
    evidence, zeros, ended = good.copy(), np.zeros(400, np.uint8), threading.Event()

    def write() -> None:
        while not ended.is_set():
            evidence[:, 0] = 200
            evidence[:, 0] = 5

    writing = threading.Thread(target=write)
    writing.start()
    advanced: set[int] = set()
    for _ in range(150):
        index = TagIndex()
        for each in names:
            index.put(each, scheme, ACTIVE, 0)
        result = verify_batch(
            index, make_arena(), scheme, rows_of(*names), evidence, zeros, KNOWN, zeros, 1, None
        )
        advanced |= set(result.advanced_counters.tolist())
    ended.set()
    writing.join()
    assert advanced <= {5}
