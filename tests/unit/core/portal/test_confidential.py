"""What TAM2 reads of a tag's memory is not left in ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import core.portal.door
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import ReadBatch
from ledgers import REALM, command
from portals import MASTER, OUTER, START_NS, site_in, tam1_identity
from registrar import container, issue
from tag_reference import tag_key, tam2_response

TAG = tam1_identity(70)
MEMORY = bytes(range(1, 33))


def test_decrypted_data_of_a_tag_are_wiped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with site_in(tmp_path) as site:
        site.sequencer.submit(command(container("T-0"))).result()
        site.sequencer.submit(command(issue(TAG, "T-0", scheme="TAG_SCHEME_TAM2"))).result()
        verify, decrypted, found = core.portal.door.verify_batch, [], []

        def keep(*given: Any) -> Any:
            result = verify(*given)
            found.append(result.data)
            decrypted.append(result.data.tobytes())
            return result

        monkeypatch.setattr(core.portal.door, "verify_batch", keep)
        stream = site.stream()
        challenge = stream.challenge()
        answer = tam2_response(tag_key(MASTER, TAG, REALM), challenge.challenge, MEMORY)
        stream.session.receive(
            ReadBatch(
                sequence=1, base_time_ns=START_NS, scheme=TagScheme.TAG_SCHEME_TAM2,
                challenge_id=challenge.challenge_id, identity=TAG, evidence=answer,
                antenna=bytes([OUTER]), channel=b"\0", rssi_cdbm=bytes(2), time_us=bytes(4),
                tam2_profile=1, tam2_offset=0, tam2_block_count=len(MEMORY) // 16,
            )
        )  # fmt: skip
        stream.ear.wait_durable(1)
        assert stream.ear.acknowledged()[1].counts.genuine == 1
        # It was there, and is no more.
        assert decrypted == [MEMORY]
        assert not found[0].any()
