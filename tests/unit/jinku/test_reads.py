"""Columns, software tags and recordings."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from Crypto.Cipher import AES
from Crypto.Hash import CMAC

from jinku import columns, recording, softtags
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import Tam2Profile

TAM1 = TagScheme.TAG_SCHEME_TAM1
COUNTER = TagScheme.TAG_SCHEME_COUNTER_CMAC
TAM2, SUN = TagScheme.TAG_SCHEME_TAM2, TagScheme.TAG_SCHEME_SUN
COUNTER_16 = TagScheme.TAG_SCHEME_COUNTER_CMAC_16


def make_reads(count: int, width: int = 12) -> columns.Reads:
    return columns.Reads(
        identity=np.arange(count * width, dtype=np.uint8).reshape(count, width),
        antenna=np.ones(count, np.uint8),
        channel=np.zeros(count, np.uint8),
        rssi_dbm=np.linspace(-60.5, -60.5 - count + 1, count),
        time_ns=1_000_000_000 + np.arange(count, dtype=np.int64) * 5_000,
        phase_turns=np.full(count, 1.25),
        doppler_hz=np.full(count, -1.5),
    )


def test_columns_have_their_widths() -> None:
    batch = columns.make_batch(make_reads(3), TAM1, np.ones((3, 16), np.uint8), b"c" * 16)
    assert (batch.base_time_ns, len(batch.identity), len(batch.evidence)) == (10**9, 36, 48)
    assert np.frombuffer(batch.rssi_cdbm, "<i2").tolist() == [-6050, -6150, -6250]
    assert np.frombuffer(batch.time_us, "<u4").tolist() == [0, 5, 10]
    assert np.frombuffer(batch.phase, "<u2").tolist() == [16384] * 3
    assert np.frombuffer(batch.doppler_chz, "<i2").tolist() == [-150] * 3


def test_missing_evidence_is_zero() -> None:
    batch = columns.make_batch(make_reads(2), COUNTER)
    assert batch.evidence == bytes(24)


def test_tam2_says_what_it_read() -> None:
    read = columns.Tam2Read(Tam2Profile.TAM2_PROFILE_USER, 7, 3)
    batch = columns.make_batch(make_reads(2), TAM2, None, b"c" * 9, read)
    assert len(batch.evidence) == 2 * 64
    said = (batch.tam2_profile, batch.tam2_offset, batch.tam2_block_count)
    assert said == (Tam2Profile.TAM2_PROFILE_USER, 7, 3)
    for scheme, tam2 in ((TAM2, None), (TAM1, read)):
        with pytest.raises(ValueError, match="tam2 goes with TAM2"):
            columns.make_batch(make_reads(2), scheme, None, b"", tam2)
    for offset, count in ((4096, 1), (-1, 1), (0, 0), (0, 5)):
        with pytest.raises(ValueError, match="1 to 4 blocks"):
            columns.Tam2Read(Tam2Profile.TAM2_PROFILE_EPC, offset, count)


def test_sun_identifies_by_uid() -> None:
    assert columns.make_batch(make_reads(2, 7), SUN).evidence == bytes(22)
    with pytest.raises(ValueError, match="UID of 7 bytes"):
        columns.make_batch(make_reads(2), SUN)


def test_software_tags_of_every_scheme() -> None:
    """Against pycryptodome; NXP's example for SUN."""
    key, challenge, memory = bytes(range(16)), b"0123456789", bytes(range(48))
    answer = softtags.answer_tam2(softtags.SoftTag(b"i" * 12, TAM2, key), challenge, memory)
    assert AES.new(key, AES.MODE_ECB).decrypt(answer[:16])[6:] == challenge
    assert AES.new(key, AES.MODE_CBC, answer[:16]).decrypt(answer[16:]) == memory
    for wrong in (b"", bytes(15), bytes(80)):
        with pytest.raises(ValueError, match="1 to 4 blocks"):
            softtags.answer_tam2(softtags.SoftTag(b"i" * 12, TAM2, key), challenge, wrong)
    tag = softtags.SoftTag(bytes.fromhex("04de5f1eacc040"), SUN, bytes(16))
    assert softtags.make_sun(tag, 61).hex() == "3d000094eed9ee65337086"
    tag = softtags.SoftTag(b"i" * 8, COUNTER_16, key)
    frame = softtags.make_frame(tag, 5)
    mac = CMAC.new(key, b"JKCMAC01" + bytes(4) + frame[:4], ciphermod=AES).digest()
    assert frame == bytes([5, 0, 0, 0]) + mac
    assert softtags.make_frames(tag, [5, 6]).shape == (2, 20)


@pytest.mark.parametrize(
    ("reads", "evidence", "why"),
    [
        (make_reads(0), None, "at least one"),
        (make_reads(2, 9), None, "identity is"),
        (make_reads(2), np.zeros((2, 12), np.uint8), "evidence is"),
    ],
)
def test_wrong_columns_do_not_travel(
    reads: columns.Reads, evidence: np.ndarray | None, why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        columns.make_batch(reads, TAM1, evidence)


def test_tam1_answer_decrypts_to_what_it_must() -> None:
    tag = softtags.SoftTag(b"e" * 12, TAM1, bytes(range(16)))
    challenge = bytes.fromhex("e4d3000b55c8c30508fd")
    answers = softtags.answer_tam1(tag, challenge, 3)
    plain = [AES.new(tag.key, AES.MODE_ECB).decrypt(answer.tobytes()) for answer in answers]
    assert all(block[:2] == b"\x96\xc5" and block[6:] == challenge for block in plain)
    assert len({block[2:6] for block in plain}) == 3
    with pytest.raises(ValueError, match="10 bytes"):
        softtags.answer_tam1(tag, b"short")


def test_frame_is_a_counter_and_a_cmac() -> None:
    tag = softtags.SoftTag(b"e" * 12, COUNTER, bytes(range(16)))
    frame = softtags.make_frame(tag, 0x01020304)
    mac = CMAC.new(tag.key, b"JKCMAC01" + bytes(4) + b"\x04\x03\x02\x01", ciphermod=AES)
    assert frame == b"\x04\x03\x02\x01" + mac.digest()[:8]
    assert softtags.make_frames(tag, [0x01020304, 5])[0].tobytes() == frame


def test_many_answers_are_those_of_each_tag() -> None:
    tags = [softtags.SoftTag(bytes([n]) * 12, TAM1, bytes([n]) * 16) for n in range(4)]
    which = np.array([2, 0, 2, 3, 0])
    answers = softtags.answer_many(tags, which, b"0123456789")
    for number, answer in zip(which, answers, strict=True):
        plain = AES.new(tags[number].key, AES.MODE_ECB).decrypt(answer.tobytes())
        assert plain[6:] == b"0123456789"


def test_tags_are_read_as_personalise_writes_them(tmp_path: Path) -> None:
    row = {"identity": "e2" * 12, "scheme": "TAM1", "key": "0f" * 16}
    for content in ([row], {"tags": [row | {"scheme": "TAG_SCHEME_TAM1"}]}):
        (tmp_path / "tags.json").write_text(json.dumps(content))
        (tag,) = softtags.load(tmp_path / "tags.json")
        assert tag == softtags.SoftTag(b"\xe2" * 12, TAM1, b"\x0f" * 16)


def test_demonstration_recording_is_whole() -> None:
    recorded = recording.load_demonstration()
    assert len(recorded.trials) == 32
    assert sum(map(len, recorded.trials)) == 8157
    assert len(recorded.frequencies_khz) == 12
    assert recorded.rooms() == ("S1", "S2")
    for trial in recorded.trials:
        assert set(trial.antenna.tolist()) <= recording.SIDES[trial.room].keys()


def test_attribution_stands_beside_the_recording() -> None:
    text = (Path(recording.__file__).parent / "demo" / "ATTRIBUTION.md").read_text()
    assert all(word in text for word in ("10.24432/C5GG6B", "CC BY 4.0", "Changes made"))


@pytest.mark.parametrize("room", ["S1", "S2"])
def test_each_portal_has_both_sides(room: str) -> None:
    assert {antenna.side for antenna in recording.antennas_of(room)} == {1, 2}


def test_laid_out_reads_are_all_there_in_order() -> None:
    trials = recording.load_demonstration().of_room("S2")
    identities = [bytes([number]) * 12 for number in range(len(trials))]
    tracks = recording.lay_out(trials, identities, 10**18, 20.0)
    assert len(tracks.reads) == sum(map(len, trials))
    assert (np.diff(tracks.reads.time_ns) >= 0).all()
    assert (tracks.reads.identity[:, 0] == tracks.which).all()
    pieces = list(recording.cut(tracks, 50_000_000, 40))
    covered = np.concatenate([np.arange(len(tracks.reads))[rows] for _, rows in pieces])
    assert covered.tolist() == list(range(len(tracks.reads)))
    for complete_ns, rows in pieces:
        assert (tracks.reads.time_ns[rows] < complete_ns).all()
        assert rows.stop - rows.start <= 40


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a,b\n1,2\n", "columns missing"),
        ("trial_id,room,time_s,antenna,rssi_dbm,phase_rad,frequency_mhz\n", "no reads"),
        (
            "trial_id,room,time_s,antenna,rssi_dbm,phase_rad,frequency_mhz\nt,S1,x,1,-60,1,920\n",
            ":2:",
        ),
    ],
)
def test_wrong_recording_says_why(tmp_path: Path, text: str, why: str) -> None:
    for name, content in (("r.csv", text.encode()), ("r.csv.gz", gzip.compress(text.encode()))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(recording.RecordingInvalid, match=why):
            recording.load(tmp_path / name)


def tam2_read(profile: str, offset: int, count: int) -> columns.Tam2Read:
    return columns.Tam2Read(getattr(Tam2Profile, f"TAM2_PROFILE_{profile}"), offset, count)


@pytest.mark.parametrize(
    ("identity", "bank"),
    [
        # What a UCODE DNA has in its EPC bank, but for the bit that says that there is user memory.
        ("e2c068920000003a1e2086e6", "5006 3400 e2c068920000003a1e2086e6"),
        ("000000313730333031393638", "c3e3 3400 000000313730333031393638"),
    ],
)
def test_epc_bank_is_as_real_tags_have_it(identity: str, bank: str) -> None:
    """The banks are those of tests/vectors/tam2.json."""
    tag = softtags.SoftTag(bytes.fromhex(identity), TAM2, bytes(16))
    assert softtags.memory_of(tag, tam2_read("EPC", 0, 1)) == bytes.fromhex(bank)
    assert softtags.memory_of(tag, tam2_read("EPC", 0, 3)) == bytes.fromhex(bank) + bytes(32)
    assert softtags.memory_of(tag, tam2_read("EPC", 4095, 4)) == bytes(64)


def test_memories_differ_and_have_their_size() -> None:
    tags = [softtags.SoftTag(bytes([n]) * 12, TAM2, bytes(16)) for n in range(2)]
    read = tam2_read("TID", 0, 1)
    assert softtags.memory_of(tags[0], read) != softtags.memory_of(tags[1], read)
    user = [softtags.memory_of(tags[0], tam2_read("USER", 2 * at, 1)) for at in range(4)]
    assert b"".join(user) == softtags.memory_of(tags[0], tam2_read("USER", 0, 4))
    assert {len(softtags.memory_of(tags[0], tam2_read("USER", 0, n))) for n in (1, 2, 3, 4)} == {
        16, 32, 48, 64,
    }  # fmt: skip


def test_counters_are_given_out_once(tmp_path: Path) -> None:
    """Across objects on one file, which is what a kill leaves."""
    tag = softtags.SoftTag(b"i" * 8, COUNTER, bytes(16))
    sun = softtags.SoftTag(b"\x04" * 7, SUN, bytes(16))
    drawn: list[int] = []
    for _ in range(3):
        counters = softtags.TagCounters(tmp_path / "counters.json", block=4)
        drawn += [counters.draw(tag) for _ in range(6)]
        assert counters.draw(sun) < 1 << 24
    assert drawn == sorted(set(drawn))
    assert drawn[-1] < 1 << 32
    # A lost file: the clock is beyond what was given out, unless the tag was read more often than
    # sixteen times a second on the average.
    lost = softtags.TagCounters(tmp_path / "another.json")
    assert lost.draw(tag) >= drawn[0]


def test_mixed_identities_are_laid_out_side_by_side() -> None:
    trials = recording.load_demonstration().of_room("S2")
    identities = [bytes([number + 1]) * (7, 8, 12)[number % 3] for number in range(len(trials))]
    reads = recording.lay_out(trials, identities, 10**18, 20.0)
    for which, row in zip(reads.which[:200].tolist(), reads.reads.identity[:200], strict=True):
        assert row.tobytes() == identities[which].ljust(12, b"\0")
