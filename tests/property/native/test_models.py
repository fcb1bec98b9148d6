"""Index, pipeline, tracks and marks against plain Python models, under Hypothesis."""

from __future__ import annotations

import struct
from collections import Counter
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from native import cpu
from native.arena import KeyArena
from native.markset import MarkSet
from native.pipeline import evidence_size, verify_batch
from native.tagindex import Tag, TagIndex
from native.tracks import NO_PEAK, Tracks
from tag_reference import (
    CHALLENGED,
    COUNTER_CMAC,
    COUNTER_CMAC_16,
    GENUINE,
    NONE,
    SUN,
    TAM1,
    TAM2,
    Portal,
    evidence_for,
    tag_key,
    tam2_data,
)

WIDTHS = (7, 8, 12, 16)
CHALLENGES = (b"challenge1", b"challenge2")
SCHEMES = (TAM1, COUNTER_CMAC, COUNTER_CMAC, NONE, TAM2, SUN, COUNTER_CMAC_16)
TAM2_BLOCKS = 2

# Few identities, so that they meet again; one that is a zero-padded prefix of the others' widths.
identities = st.builds(
    lambda width, tag: bytes([tag]).ljust(width, b"\0"), st.sampled_from(WIDTHS), st.integers(0, 40)
)
values = st.integers(0, 255)
put = st.tuples(st.just("put"), identities, st.integers(1, 255), st.integers(1, 3), values)
put_block = st.tuples(
    st.just("put_block"), st.sampled_from(WIDTHS), st.integers(0, 2**32), st.integers(0, 60)
)
set_state = st.tuples(st.just("set_state"), identities, st.integers(1, 3))
set_counter = st.tuples(st.just("set_counter"), identities, st.integers(0, 2**32 - 1))


@settings(max_examples=150)
@given(
    capacity=st.integers(1, 50),
    seed=st.integers(0, 2**64 - 1),
    steps=st.lists(put | put_block | set_state | set_counter, max_size=60),
)
def test_tag_index_is_a_dict(capacity: int, seed: int, steps: list[tuple[Any, ...]]) -> None:
    index, model = TagIndex(capacity, seed=seed), {}  # type: TagIndex, dict[bytes, Tag]

    def model_put(identity: bytes, scheme: int, state: int, key: int) -> int:
        old = model.get(identity)
        number, counter = (old.number, old.counter) if old else (len(model), 0)
        model[identity] = Tag(identity, number, scheme, state, key, counter)
        return number

    for kind, *args in steps:
        if kind == "put":
            assert index.put(*args) == model_put(*args)
        elif kind == "put_block":
            width, start, count = args
            rows = [struct.pack("<Q", start + i)[:7].ljust(width, b"\1") for i in range(count)]
            block = np.frombuffer(b"".join(rows), np.uint8).reshape(count, width)
            column = np.full(count, 2, np.uint8)
            numbers = index.put_many(block, column, column, column)
            assert numbers.tolist() == [model_put(row, 2, 2, 2) for row in rows]
        elif kind == "set_state":
            identity, state = args
            assert index.set_state(identity, state) == (identity in model)
            if identity in model:
                model[identity] = model[identity]._replace(state=state)
        else:
            identity, counter = args
            higher = identity in model and counter > model[identity].counter
            assert index.set_counter(identity, counter) == higher
            if higher:
                model[identity] = model[identity]._replace(counter=counter)
    assert len(index) == len(model)
    for identity, tag in model.items():
        assert index.get(identity) == tag
        assert index.identity_of(tag.number) == identity
    for width in WIDTHS:
        asked = [identity for identity in model if len(identity) == width] + [b"\xfe" * width]
        found = index.find_many(np.frombuffer(b"".join(asked), np.uint8).reshape(-1, width))
        assert found.tolist() == [
            model[row].number if row in model else 0xFFFFFFFF for row in asked
        ]


read = st.fixed_dictionaries(
    {
        "tag": st.integers(0, 12),
        "key": st.sampled_from(["own", "own", "own", "other"]),
        "kind": st.sampled_from(["right"] * 6 + ["zero", "noise", "flip"]),
        "flip": st.integers(0, 127),
        "counter": st.integers(0, 6) | st.sampled_from([2**31, 2**32 - 1]),
        "challenge": st.sampled_from(CHALLENGES),
        "antenna": st.sampled_from([1] * 9 + [200]),
        "channel": st.sampled_from([0] * 9 + [4, 5]),
    }
)
batch = st.fixed_dictionaries(
    {
        "scheme": st.sampled_from(SCHEMES),
        "challenge": st.sampled_from([*CHALLENGES, None]),
        "reads": st.lists(read, max_size=300) | st.lists(read, max_size=20),
    }
)
registered = st.lists(
    st.tuples(
        st.sampled_from(SCHEMES),
        st.integers(1, 3),
        st.integers(0, 3),
    ),
    min_size=10,
    max_size=10,
)


def size_of(scheme: int) -> int:
    return evidence_size(scheme, TAM2_BLOCKS if scheme == TAM2 else 0)


def evidence_of(portal: Portal, scheme: int, identity: bytes, wanted: dict[str, Any]) -> bytes:
    size = size_of(scheme)
    if wanted["kind"] == "zero":
        return bytes(size)
    if wanted["kind"] == "noise":
        return bytes((wanted["flip"] * 31 + i * 7) % 255 + 1 for i in range(size))
    tag = portal.tags.get(identity)
    number = tag.key if tag and tag.key < len(portal.masters) else 0
    if wanted["key"] == "other":
        number = (number + 1) % len(portal.masters)
    realm, master = portal.masters[number]
    key = tag_key(master, identity, realm)
    if scheme == NONE:
        return b""
    evidence = evidence_for(scheme, key, identity, wanted["counter"], wanted["challenge"])
    if wanted["kind"] == "flip":
        bit = wanted["flip"] % (size * 8)
        evidence = (int.from_bytes(evidence, "little") ^ 1 << bit).to_bytes(size, "little")
    return evidence


@settings(max_examples=120)
@given(width=st.sampled_from(WIDTHS), tags=registered, batches=st.lists(batch, max_size=4))
def test_pipeline_judges_as_the_model_does(
    width: int, tags: list[tuple[int, int, int]], batches: list[dict[str, Any]]
) -> None:
    """Every kernel, batch after batch: verdicts, numbers, counts, advanced counters, stored counters."""
    portal = Portal(masters=[(1, b"\1" * 16), (2, bytes(range(16))), (0xFFFFFFFF, b"\xfe" * 16)])
    arena = KeyArena()
    for realm, master in portal.masters:
        arena.add(realm, 1, bytearray(master))
    names = [bytes(width)] + [b"N%02d" % i + bytes([i]) * (width - 3) for i in range(1, 13)]
    indices = {kernel: TagIndex(4) for kernel in cpu.available()}
    for identity, (scheme, state, key) in zip(names[1:], tags, strict=False):
        number = portal.put(identity, scheme, state, key)
        assert {index.put(identity, scheme, state, key) for index in indices.values()} == {number}
    known = np.zeros(256, np.uint8)
    known[:8] = 1
    for step in batches:
        scheme, reads = step["scheme"], step["reads"]
        if scheme == SUN and width != 7:
            scheme = COUNTER_CMAC_16
        challenge = step["challenge"] if scheme in CHALLENGED else None
        rows = [names[wanted["tag"]] for wanted in reads]
        evidence = [
            evidence_of(portal, scheme, row, wanted)
            for row, wanted in zip(rows, reads, strict=True)
        ]
        expected = [
            portal.judge(
                scheme,
                row,
                proof,
                challenge,
                placed=wanted["antenna"] < 8 and wanted["channel"] < 5,
            )
            for row, proof, wanted in zip(rows, evidence, reads, strict=True)
        ]
        for kernel, index in indices.items():
            result = verify_batch(
                index,
                arena,
                scheme,
                np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width),
                np.frombuffer(b"".join(evidence), np.uint8).reshape(len(rows), size_of(scheme)),
                np.array([wanted["antenna"] for wanted in reads], np.uint8),
                known,
                np.array([wanted["channel"] for wanted in reads], np.uint8),
                5,
                challenge,
                kernel=kernel,
            )
            assert result.verdicts.tolist() == [verdict for verdict, _, _ in expected]
            assert result.numbers.tolist() == [number for _, number, _ in expected]
            advanced = [pair for _, _, pair in expected if pair]
            pairs = zip(
                result.advanced_numbers.tolist(), result.advanced_counters.tolist(), strict=True
            )
            assert list(pairs) == advanced
            verdicts = [verdict for verdict, _, _ in expected]
            if scheme == TAM2:
                data = b"".join(
                    tam2_data(portal.key_of(row), proof) if verdict == GENUINE else bytes(32)
                    for row, proof, verdict in zip(rows, evidence, verdicts, strict=True)
                )
                assert result.data is not None
                assert result.data.tobytes() == data
            else:
                assert result.data is None
            assert result.counts.tolist() == [verdicts.count(verdict) for verdict in range(8)]
    for index in indices.values():
        for identity, tag in portal.tags.items():
            stored = index.get(identity)
            assert stored is not None
            assert stored.counter == tag.counter


track_read = st.tuples(
    st.integers(0, 6),
    st.integers(1, 2),
    st.integers(0, 3),
    st.integers(-9000, -1000),
    st.integers(0, 500),
)
track_step = st.tuples(
    st.lists(track_read, max_size=40), st.integers(0, 10**6), st.integers(0, 10**6)
)


def summary(number: int, reads: list[tuple[int, int, int]]) -> tuple[Any, ...]:
    """A finished track from its reads (side, rssi, time), in order of the rows."""
    times = [time for _, _, time in reads]
    sided = sorted((read for read in reads if read[0]), key=lambda read: read[2])
    by_side = [[read for read in reads if read[0] == side] for side in (1, 2)]
    return (
        min(times),
        max(times),
        *(sum(r[2] for r in some) // len(some) if some else 0 for some in by_side),
        number,
        *(len(some) for some in by_side),
        *(max((r[1] for r in some), default=NO_PEAK) for some in by_side),
        sided[0][0] if sided else 0,
        sided[-1][0] if sided else 0,
    )


@given(capacity=st.integers(1, 8), steps=st.lists(track_step, max_size=8))
def test_tracks_summarise_their_reads(
    capacity: int, steps: list[tuple[list[tuple[int, int, int, int, int]], int, int]]
) -> None:
    tracks = Tracks(capacity)
    sides = np.array([0, 1, 2, 1] * 64, np.uint8)
    model: dict[int, list[tuple[int, int, int]]] = {}
    overflow = 0
    for reads, base, quiet in steps:
        columns = list(zip(*reads, strict=True)) or [()] * 5
        opened = []
        for row, (number, verdict, antenna, rssi, time) in enumerate(reads):
            if verdict != 1:
                continue
            if number not in model:
                if len(model) == capacity:
                    overflow += 1
                    continue
                model[number] = []
                opened.append(row)
            model[number].append((int(sides[antenna]), rssi, base + time * 1000))
        seen = tracks.update(
            np.array(columns[0], np.uint32),
            np.array(columns[1], np.uint8),
            np.array(columns[2], np.uint8),
            sides,
            np.array(columns[3], np.int16),
            np.array(columns[4], np.uint32),
            base,
        )
        assert (seen.tolist(), tracks.overflow, len(tracks)) == (opened, overflow, len(model))
        expected = [(n, r) for n, r in model.items() if max(time for _, _, time in r) < quiet]
        for number, _ in expected:
            del model[number]
        assert tracks.finish(quiet).tolist() == [summary(number, r) for number, r in expected]


# Few, so that they meet again and stand in each other's way; 0 is kept apart from the others.
marks = st.builds(
    lambda value: value.to_bytes(8, "little"),
    st.integers(0, 12) | st.integers(2**64 - 12, 2**64 - 1) | st.integers(2**63, 2**63 + 3),
)


@settings(max_examples=200)
@given(
    capacity=st.integers(0, 40),
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "remove", "ask"]), st.lists(marks, max_size=30)),
        max_size=40,
    ),
)
def test_mark_set_is_a_counter(capacity: int, steps: list[tuple[str, list[bytes]]]) -> None:
    marked, model = MarkSet(capacity), Counter[bytes]()
    for what, some in steps:
        if what == "add":
            marked.add(b"".join(some))
            model.update(some)
        elif what == "remove":
            missing = 0
            for mark in some:
                missing += not model[mark]
                model[mark] -= model[mark] > 0
            assert marked.remove(b"".join(some)) == missing
        else:
            first = next((at for at, mark in enumerate(some) if not model[mark]), None)
            assert marked.first_missing(b"".join(some)) == first
            assert [mark in marked for mark in some] == [model[mark] > 0 for mark in some]
        assert len(marked) == model.total()
    dumped = marked.dump()
    assert Counter(dumped[at : at + 8] for at in range(0, len(dumped), 8)) == +model
