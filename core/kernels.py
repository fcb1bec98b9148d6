"""The door to `native`: the only module of `core` that imports it."""

from __future__ import annotations

from native.arena import KeyArena, disable_core_dumps
from native.markset import MarkSet
from native.merkle import leaf_hashes, node_hashes
from native.merkle import split as split_fields
from native.pipeline import BatchVerdicts, verify_batch
from native.tagindex import TagIndex
from native.tracks import Tracks

UNKNOWN_NUMBER = 0xFFFFFFFF

__all__ = [
    "UNKNOWN_NUMBER", "BatchVerdicts", "KeyArena", "MarkSet", "TagIndex", "Tracks",
    "disable_core_dumps", "leaf_hashes", "node_hashes", "split_fields", "verify_batch",
]  # fmt: skip
