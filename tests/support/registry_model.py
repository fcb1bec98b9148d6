"""What the registry must say of boxes and tags: plain dictionaries, no rule taken from the service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

ACTIVE: Final = "ACTIVE"
FROZEN: Final = "FROZEN"
RETIRED: Final = "RETIRED"


@dataclass
class ModelTag:
    """A tag as the model knows it."""

    label: str
    state: str = ACTIVE


@dataclass
class Model:
    """Boxes and tags as plain dictionaries."""

    boxes: dict[str, list[bytes]] = field(default_factory=dict)
    tags: dict[bytes, ModelTag] = field(default_factory=dict)

    def live(self, label: str) -> bytes | None:
        """The box's live tag; more than one would be an error of the model."""
        live = [one for one in self.boxes[label] if self.tags[one].state != RETIRED]
        assert len(live) <= 1
        return live[0] if live else None

    def issue(self, identity: bytes, label: str, replaces: bool) -> list[str]:
        """What must be said against it; nothing: it is done."""
        reasons = []
        if label not in self.boxes:
            reasons.append("CONTAINER_NOT_REGISTERED")
        elif replaces and self.live(label) is None:
            reasons.append("CONTAINER_HAS_NO_LIVE_TAG")
        elif not replaces and self.live(label) is not None:
            reasons.append("CONTAINER_HAS_LIVE_TAG")
        if not any(identity):
            reasons.append("TAG_IDENTITY_INVALID")
        elif identity in self.tags:
            reasons.append("TAG_ALREADY_BOUND")
        if not reasons:
            old = self.live(label)
            if old is not None:
                self.tags[old].state = RETIRED
            self.tags[identity] = ModelTag(label)
            self.boxes[label].append(identity)
        return reasons

    def move(
        self, identity: bytes, allowed: dict[str, str], otherwise: dict[str, str]
    ) -> list[str]:
        """A tag goes from one state to the next, or the reason why not."""
        tag = self.tags.get(identity)
        if tag is None:
            return ["TAG_NOT_REGISTERED"]
        if tag.state not in allowed:
            return [otherwise[tag.state]]
        tag.state = allowed[tag.state]
        return []

    def register(self, label: str) -> list[str]:
        """A new box."""
        if label in self.boxes:
            return ["CONTAINER_EXISTS"]
        self.boxes[label] = []
        return []

    def freeze(self, identity: bytes) -> list[str]:
        otherwise = {FROZEN: "TAG_ALREADY_FROZEN", RETIRED: "TAG_RETIRED"}
        return self.move(identity, {ACTIVE: FROZEN}, otherwise)

    def unfreeze(self, identity: bytes) -> list[str]:
        otherwise = {ACTIVE: "TAG_NOT_FROZEN", RETIRED: "TAG_RETIRED"}
        return self.move(identity, {FROZEN: ACTIVE}, otherwise)

    def retire(self, identity: bytes) -> list[str]:
        allowed = {ACTIVE: RETIRED, FROZEN: RETIRED}
        return self.move(identity, allowed, {RETIRED: "TAG_RETIRED"})
