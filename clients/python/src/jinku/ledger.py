"""The LedgerService: what the journal holds and the proofs of it."""

from __future__ import annotations

from jinku.calls import UnaryClient
from jinku.v1.ledger_pb2 import (
    GetCheckpointRequest,
    GetCheckpointResponse,
    GetConsistencyProofRequest,
    GetConsistencyProofResponse,
    GetEntryRequest,
    GetEntryResponse,
    GetProofRequest,
    GetProofResponse,
    GetTileRequest,
    GetTileResponse,
    ListEntriesRequest,
    ListEntriesResponse,
)


class LedgerClient(UnaryClient):
    """Typed calls of the LedgerService."""

    def get_entry(self, request: GetEntryRequest) -> GetEntryResponse:
        """One entry with its receipt."""
        return self.call(request, GetEntryResponse)

    def get_proof(self, request: GetProofRequest) -> GetProofResponse:
        """The inclusion proof of one entry."""
        return self.call(request, GetProofResponse)

    def get_checkpoint(self, request: GetCheckpointRequest) -> GetCheckpointResponse:
        """The newest signed checkpoint and the key that checks it."""
        return self.call(request, GetCheckpointResponse)

    def get_consistency_proof(
        self, request: GetConsistencyProofRequest
    ) -> GetConsistencyProofResponse:
        """That the journal of one size begins the journal of another."""
        return self.call(request, GetConsistencyProofResponse)

    def get_tile(self, request: GetTileRequest) -> GetTileResponse:
        """The beginning of a hash tile."""
        return self.call(request, GetTileResponse)

    def list_entries(self, request: ListEntriesRequest) -> ListEntriesResponse:
        """Whole entries in order, a page of them."""
        return self.call(request, ListEntriesResponse)
