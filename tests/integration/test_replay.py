"""`jinku portal replay` and tags in software: every scheme, genuine, forged and played again."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from jinku.columns import Reads, Tam2Read
from jinku.commands import load_portal_epoch
from jinku.errors import require_accepted
from jinku.portal import Handlers, PortalClient
from jinku.replay import Replayer
from jinku.softtags import SoftTag, TagCounters, load
from jinku.type.v1.tag_pb2 import TagScheme
from jinku.v1.portal_pb2 import Acknowledgement, Tam2Profile
from jinku.v1.registry_pb2 import IssueTagRequest
from served_realm import PORTAL, Realm, serve

JINKU = Path(sys.executable).with_name("jinku")
# Each scheme with the widths of identity that it can have.
KINDS = [
    (TagScheme.TAG_SCHEME_TAM1, 12),
    (TagScheme.TAG_SCHEME_TAM1, 8),
    (TagScheme.TAG_SCHEME_TAM2, 12),
    (TagScheme.TAG_SCHEME_TAM2, 16),
    (TagScheme.TAG_SCHEME_SUN, 7),
    (TagScheme.TAG_SCHEME_COUNTER_CMAC, 8),
    (TagScheme.TAG_SCHEME_COUNTER_CMAC, 7),
    (TagScheme.TAG_SCHEME_COUNTER_CMAC_16, 12),
]
COUNTING = 4
READS = 12


class Site:
    """A served realm with a tag of every kind, and what the portal keeps."""

    def __init__(self, realm: Realm, state: Path) -> None:
        self.realm = realm
        self.state = state
        lines = []
        for number, (scheme, width) in enumerate(KINDS, 1):
            identity = bytes([0x40 + number]) * width
            request = IssueTagRequest(
                container_label=realm.add_box(), identity=identity, scheme=scheme
            )
            require_accepted(realm.registry.issue_tag(request).outcome)
            lines.append(f"{identity.hex()},{TagScheme.Name(scheme).removeprefix('TAG_SCHEME_')}")
        self.tags_file = realm.service.personalise(lines, "all-schemes")
        self.tags = load(self.tags_file)
        # Where the command keeps them.
        self.counters = TagCounters(state / "jinku" / "tag-counters.json")
        self.recording = state / "reads.csv"
        rows = ["trial_id,room,time_s,antenna,rssi_dbm,phase_rad,frequency_mhz"]
        for number in range(len(KINDS)):
            rows += [
                f"t{number},R,{n / 20},{1 + n * 2 // READS},-55,1,920.625" for n in range(READS)
            ]
        self.recording.write_text("\n".join(rows))

    def replay(self, tags: Path, *options: str) -> str:
        own = self.realm.service.connect("portal", PORTAL)
        answer = subprocess.run(
            [str(JINKU), "portal", "replay", str(self.recording), "--tags", str(tags), *options],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env={
                **os.environ,
                "JINKU_TARGET": own.target,
                "JINKU_CERTIFICATE": str(own.certificate),
                "JINKU_KEY": str(own.key),
                "JINKU_CA": str(own.ca),
                "XDG_STATE_HOME": str(self.state),
            },
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return answer.stdout

    @contextmanager
    def client(self) -> Iterator[tuple[PortalClient, Counter[str]]]:
        verdicts: Counter[str] = Counter()

        def hear(acknowledgement: Acknowledgement) -> None:
            for batch in acknowledgement.batches:
                for verdict, count in batch.counts.ListFields():
                    verdicts[verdict.name] += count

        epoch = load_portal_epoch(self.state / "jinku" / f"portal-portal-{PORTAL}.json")
        connection = self.realm.service.connect("portal", PORTAL)
        with (
            connection.open() as channel,
            PortalClient(
                channel, self.realm.hello(epoch), Handlers(acknowledgement=hear)
            ) as client,
        ):
            client.wait_challenge()
            yield client, verdicts

    def reads(self, tag: SoftTag, count: int = 2) -> Reads:
        return Reads(
            identity=np.tile(np.frombuffer(tag.identity, np.uint8), (count, 1)),
            antenna=np.ones(count, np.uint8),
            channel=np.zeros(count, np.uint8),
            rssi_dbm=np.full(count, -55.0),
            time_ns=np.full(count, time.time_ns()),
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("replayed")
    with serve(directory / "realm") as realm:
        yield Site(realm, directory)


def test_every_scheme_is_genuine(site: Site) -> None:
    told = site.replay(site.tags_file, "--tam2", "epc:0:2")
    reads = READS * len(KINDS)
    assert f"{reads} reads sent, {reads} durable, 0 rejected; 0 alarms, {len(KINDS)} pass" in told
    assert re.findall(r"^(\d+) (\w+)$", told, re.MULTILINE) == [(str(reads), "genuine")]
    assert told.count("RELEASE") == len(KINDS)


def test_every_profile_and_block_count_of_tam2(site: Site) -> None:
    tags = [tag for tag in site.tags if tag.scheme == TagScheme.TAG_SCHEME_TAM2]
    profiles = [number for number in Tam2Profile.values() if number]
    sent = 0
    with site.client() as (client, verdicts):
        for profile, blocks in itertools.product(profiles, (1, 2, 3, 4)):
            read = Tam2Read(profile, blocks - 1, blocks)
            replayer = Replayer(client, tags, site.counters, read)
            for number, tag in enumerate(tags):
                replayer.send(site.reads(tag), np.full(2, number))
                sent += 2
        client.flush()
    assert verdicts == {"genuine": sent}
    assert sent == 2 * len(tags) * 3 * 4


def test_wrong_keys_are_bad_evidence_under_every_scheme(site: Site, tmp_path: Path) -> None:
    forged = json.loads(site.tags_file.read_text())
    for tag in forged["tags"]:
        tag["key"] = bytes(reversed(bytes.fromhex(tag["key"]))).hex()
    (tmp_path / "forged.json").write_text(json.dumps(forged))
    told = site.replay(tmp_path / "forged.json")
    assert f"; {len(KINDS)} alarms, 0 passages" in told
    reads = READS * len(KINDS)
    assert re.findall(r"^(\d+) (\w+)$", told, re.MULTILINE) == [(str(reads), "bad_evidence")]
    assert told.count("402 TAG_EVIDENCE_FORGED") == len(KINDS)
    assert "RELEASE" not in told


def test_what_was_sent_before_is_replayed_under_every_scheme(site: Site) -> None:
    """The very bytes of a batch again, with a sequence of its own: counters do not rise, and
    challenges are those of another hour."""
    with site.client() as (client, verdicts):
        for number, tag in enumerate(site.tags):
            replayer = Replayer(client, site.tags, site.counters)
            with mock.patch.object(client, "send", wraps=client.send) as send:
                replayer.send(site.reads(tag, 1), np.full(1, number))
            (batch,) = send.call_args.args
            if batch.challenge_id:
                batch.challenge_id = batch.challenge_id[:-1] + bytes([batch.challenge_id[-1] ^ 1])
            client.send(batch)
        client.flush()
    assert verdicts == {"genuine": len(KINDS), "replayed": len(KINDS)}


def test_a_tag_set_back_is_replayed(site: Site, tmp_path: Path) -> None:
    """Counters that a tag has used up already: its file is lost after it counted far ahead."""
    ahead = {
        tag.identity.hex(): 1 << 23 if tag.scheme == TagScheme.TAG_SCHEME_SUN else 3 << 30
        for tag in site.tags
    }
    (tmp_path / "counters.json").write_text(json.dumps(ahead))
    with site.client() as (client, verdicts):
        for name in ("counters.json", "lost.json"):
            replayer = Replayer(client, site.tags, TagCounters(tmp_path / name))
            for number, tag in enumerate(site.tags):
                replayer.send(site.reads(tag, 3), np.full(3, number))
        client.flush()
    assert verdicts == {"genuine": 3 * (2 * len(KINDS) - COUNTING), "replayed": 3 * COUNTING}


@pytest.mark.parametrize("read", ["tid", "tid:0:5", "tid:-1:1", "all:0:1", "tid:x:1"])
def test_wrong_tam2_read_is_told(site: Site, read: str) -> None:
    answer = subprocess.run(
        [
            str(JINKU), "portal", "replay", "--tags", str(site.tags_file), "--tam2", read,
            "--certificate", "c", "--key", "k", "--ca", "a",
        ],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert answer.returncode == 2
    assert "is no profile:offset:blocks, as `tid:0:1`" in answer.stderr
