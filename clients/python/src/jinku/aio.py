"""The asyncio twin of the unary clients: the same paths, bytes and retries."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from jinku.calls import REPEATABLE, Answer, RetryPolicy, path_of, prepare
from jinku.commands import CommandIds
from jinku.errors import from_rpc_error
from jinku.v1.contact_pb2 import (
    ChangeContactRequest,
    ChangeContactResponse,
    ConfirmErasureRequest,
    ConfirmErasureResponse,
    EndContactRequest,
    EndContactResponse,
    GetContactRequest,
    GetContactResponse,
    ReadContactRequest,
    ReadContactResponse,
    RegisterContactRequest,
    RegisterContactResponse,
    RequestErasureRequest,
    RequestErasureResponse,
)
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
from jinku.v1.registry_pb2 import (
    FreezeTagRequest,
    FreezeTagResponse,
    GetContainerRequest,
    GetContainerResponse,
    IssueTagRequest,
    IssueTagResponse,
    RegisterContainerRequest,
    RegisterContainerResponse,
    RegisterInstitutionRequest,
    RegisterInstitutionResponse,
    RegisterPortalRequest,
    RegisterPortalResponse,
    RegisterVaultRequest,
    RegisterVaultResponse,
    RetireTagRequest,
    RetireTagResponse,
    UnfreezeTagRequest,
    UnfreezeTagResponse,
)


@dataclass
class UnaryClient:
    """Sends requests over an asyncio channel; repeats the same bytes while unavailable."""

    channel: grpc.aio.Channel
    command_ids: CommandIds | None = None
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    async def call(self, request: Any, answer: type[Answer]) -> Answer:
        """The service's answer; raises `CallFailed` where there is none."""
        # Drawing an id may sync a file: that must not hold up the loop.
        body = await asyncio.to_thread(prepare, request, self.command_ids)
        send: Any = self.channel.unary_unary(path_of(request), None, answer.FromString)
        delays = iter(self.retry.delays())
        while True:
            try:
                answered: Answer = await send(body, timeout=self.retry.timeout_s)
            except grpc.RpcError as error:
                failure = from_rpc_error(error)
                delay = next(delays, None)
                if failure.code not in REPEATABLE or delay is None:
                    raise failure from error
                await asyncio.sleep(delay)
            else:
                return answered


class RegistryClient(UnaryClient):
    """`jinku.registry.RegistryClient`, awaited."""

    async def register_institution(
        self, request: RegisterInstitutionRequest
    ) -> RegisterInstitutionResponse:
        """Registers an institution (机构)."""
        return await self.call(request, RegisterInstitutionResponse)

    async def register_vault(self, request: RegisterVaultRequest) -> RegisterVaultResponse:
        """Registers a vault (金库)."""
        return await self.call(request, RegisterVaultResponse)

    async def register_portal(self, request: RegisterPortalRequest) -> RegisterPortalResponse:
        """Registers a portal at a vault's door."""
        return await self.call(request, RegisterPortalResponse)

    async def register_container(
        self, request: RegisterContainerRequest
    ) -> RegisterContainerResponse:
        """Registers a box or bag (款箱/款袋)."""
        return await self.call(request, RegisterContainerResponse)

    async def issue_tag(self, request: IssueTagRequest) -> IssueTagResponse:
        """Binds a tag to a container, or replaces the one it carries."""
        return await self.call(request, IssueTagResponse)

    async def freeze_tag(self, request: FreezeTagRequest) -> FreezeTagResponse:
        """Stops a tag from opening any gate (冻结)."""
        return await self.call(request, FreezeTagResponse)

    async def unfreeze_tag(self, request: UnfreezeTagRequest) -> UnfreezeTagResponse:
        """Undoes a freeze (解冻)."""
        return await self.call(request, UnfreezeTagResponse)

    async def retire_tag(self, request: RetireTagRequest) -> RetireTagResponse:
        """Ends a tag for ever (注销)."""
        return await self.call(request, RetireTagResponse)

    async def get_container(self, request: GetContainerRequest) -> GetContainerResponse:
        """Finds a container by label, id or an identity it carried."""
        return await self.call(request, GetContainerResponse)

    async def register_contact(self, request: RegisterContactRequest) -> RegisterContactResponse:
        """Registers the contact person of an institution (联系人)."""
        return await self.call(request, RegisterContactResponse)

    async def change_contact(self, request: ChangeContactRequest) -> ChangeContactResponse:
        """New values of the same person; the earlier ones stay until an erasure."""
        return await self.call(request, ChangeContactResponse)

    async def end_contact(self, request: EndContactRequest) -> EndContactResponse:
        """The person is the contact no more; retention runs from here."""
        return await self.call(request, EndContactResponse)

    async def get_contact(self, request: GetContactRequest) -> GetContactResponse:
        """What is known of a contact, its values excepted."""
        return await self.call(request, GetContactResponse)

    async def read_contact(self, request: ReadContactRequest) -> ReadContactResponse:
        """A contact's values; who read them and why is journalled."""
        return await self.call(request, ReadContactResponse)

    async def request_erasure(self, request: RequestErasureRequest) -> RequestErasureResponse:
        """Asks for the erasure of a person's values (删除个人信息)."""
        return await self.call(request, RequestErasureResponse)

    async def confirm_erasure(self, request: ConfirmErasureRequest) -> ConfirmErasureResponse:
        """Confirms what another principal asked for. It cannot be undone."""
        return await self.call(request, ConfirmErasureResponse)


class LedgerClient(UnaryClient):
    """`jinku.ledger.LedgerClient`, awaited."""

    async def get_entry(self, request: GetEntryRequest) -> GetEntryResponse:
        """One entry with its receipt."""
        return await self.call(request, GetEntryResponse)

    async def get_proof(self, request: GetProofRequest) -> GetProofResponse:
        """The inclusion proof of one entry."""
        return await self.call(request, GetProofResponse)

    async def get_checkpoint(self, request: GetCheckpointRequest) -> GetCheckpointResponse:
        """The newest signed checkpoint and the key that checks it."""
        return await self.call(request, GetCheckpointResponse)

    async def get_consistency_proof(
        self, request: GetConsistencyProofRequest
    ) -> GetConsistencyProofResponse:
        """That the journal of one size begins the journal of another."""
        return await self.call(request, GetConsistencyProofResponse)

    async def get_tile(self, request: GetTileRequest) -> GetTileResponse:
        """The beginning of a hash tile."""
        return await self.call(request, GetTileResponse)

    async def list_entries(self, request: ListEntriesRequest) -> ListEntriesResponse:
        """Whole entries in order, a page of them."""
        return await self.call(request, ListEntriesResponse)
