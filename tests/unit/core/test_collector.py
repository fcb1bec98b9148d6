"""A settled process looks through nothing that it began with, and frees cycles all the same."""

from __future__ import annotations

import subprocess
import sys

CHECK = """
import gc, weakref
from core.collector import settle
class Node:
    def __init__(self):
        self.self = self
gc.disable()
began = len(gc.get_objects())
settle()
assert gc.isenabled()
assert gc.get_freeze_count() > began / 2 > 0, (gc.get_freeze_count(), began)
assert gc.get_threshold()[0] > 700
freed = []
for _ in range(100_000):
    weakref.finalize(Node(), freed.append, 1).atexit = False
assert freed
"""


def test_settled() -> None:
    subprocess.run([sys.executable, "-c", CHECK], check=True, timeout=60)
