"""The RegistryService: who and what there is."""

from __future__ import annotations

from jinku.calls import UnaryClient
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


class RegistryClient(UnaryClient):
    """Typed calls of the RegistryService. A command without an id gets the next of `command_ids`."""

    def register_institution(
        self, request: RegisterInstitutionRequest
    ) -> RegisterInstitutionResponse:
        """Registers an institution (机构)."""
        return self.call(request, RegisterInstitutionResponse)

    def register_vault(self, request: RegisterVaultRequest) -> RegisterVaultResponse:
        """Registers a vault (金库)."""
        return self.call(request, RegisterVaultResponse)

    def register_portal(self, request: RegisterPortalRequest) -> RegisterPortalResponse:
        """Registers a portal at a vault's door."""
        return self.call(request, RegisterPortalResponse)

    def register_container(self, request: RegisterContainerRequest) -> RegisterContainerResponse:
        """Registers a box or bag (款箱/款袋)."""
        return self.call(request, RegisterContainerResponse)

    def issue_tag(self, request: IssueTagRequest) -> IssueTagResponse:
        """Binds a tag to a container, or replaces the one it carries."""
        return self.call(request, IssueTagResponse)

    def freeze_tag(self, request: FreezeTagRequest) -> FreezeTagResponse:
        """Stops a tag from opening any gate (冻结)."""
        return self.call(request, FreezeTagResponse)

    def unfreeze_tag(self, request: UnfreezeTagRequest) -> UnfreezeTagResponse:
        """Undoes a freeze (解冻)."""
        return self.call(request, UnfreezeTagResponse)

    def retire_tag(self, request: RetireTagRequest) -> RetireTagResponse:
        """Ends a tag for ever (注销)."""
        return self.call(request, RetireTagResponse)

    def get_container(self, request: GetContainerRequest) -> GetContainerResponse:
        """Finds a container by label, id or an identity it carried."""
        return self.call(request, GetContainerResponse)
