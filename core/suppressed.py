"""What happens too often to be written down one by one: counted, and digested in order."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field


@dataclass(slots=True)
class Suppressed:
    """So many of them, and a chain over what they were."""

    count: int = 0
    from_sequence: int = 0
    digest: bytes = field(default=bytes(32))

    def add(self, count: int, sequence: int, material: bytes) -> None:
        """Count and digest more of them."""
        if not self.count:
            self.from_sequence = sequence
        self.count += count
        self.digest = hashlib.sha256(
            self.digest + count.to_bytes(8, "big") + sequence.to_bytes(8, "big") + material
        ).digest()
