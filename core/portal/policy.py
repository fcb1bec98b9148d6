"""How long a portal's reads are kept: the longest of the rules that apply to it.

Sources give different numbers for different places, so every rule names its own (POL-01). Where two
apply the longer one does (SEC-09). Where none does nothing is deleted; neither is it while a rule is for
a vault that nobody registered, because a misspelt one would let reads go that it was to keep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from core.errors import SettingsError
from core.ledger.tables import PORTALS, IndexKind, State
from core.settings import ReadLogSettings


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """Days, and whose rule that is."""

    days: int
    article: str


class Policy:
    """The rules of the settings; policy packs will take this over."""

    def __init__(self, settings: ReadLogSettings) -> None:
        self._settings = settings
        self._general = None
        if settings.retention_days is not None:
            self._general = Rule(settings.retention_days, settings.retention_article)

    def rules(self, state: State) -> Callable[[bytes], Rule | None]:
        """The rule by portal's id, valid as long as `state` is. SettingsError names a vault that is not
        registered.
        """
        of_vault: dict[bytes, Rule] = {}
        for vault in self._settings.vaults:
            vault_id = state.find(IndexKind.VAULT_CODE, vault.code.encode())
            if vault_id is None:
                raise SettingsError(
                    f"readlog.vaults: no vault is registered as {vault.code!r}; until one is, or "
                    "the setting is changed, no reads are deleted"
                )
            of_vault[vault_id] = Rule(vault.retention_days, vault.retention_article)

        def of(portal_id: bytes) -> Rule | None:
            portal = state.get(PORTALS, portal_id)
            own = of_vault.get(portal.vault_id) if portal is not None else None
            return max((rule for rule in (self._general, own) if rule is not None), default=None)

        return of
