"""The RegistryService: who and what there is."""

from __future__ import annotations

from jinku.calls import UnaryClient
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

    def register_contact(self, request: RegisterContactRequest) -> RegisterContactResponse:
        """Registers the contact person of an institution (联系人)."""
        return self.call(request, RegisterContactResponse)

    def change_contact(self, request: ChangeContactRequest) -> ChangeContactResponse:
        """New values of the same person; the earlier ones stay until an erasure."""
        return self.call(request, ChangeContactResponse)

    def end_contact(self, request: EndContactRequest) -> EndContactResponse:
        """The person is the contact no more; retention runs from here."""
        return self.call(request, EndContactResponse)

    def get_contact(self, request: GetContactRequest) -> GetContactResponse:
        """What is known of a contact, its values excepted."""
        return self.call(request, GetContactResponse)

    def read_contact(self, request: ReadContactRequest) -> ReadContactResponse:
        """A contact's values; who read them and why is journalled."""
        return self.call(request, ReadContactResponse)

    def request_erasure(self, request: RequestErasureRequest) -> RequestErasureResponse:
        """Asks for the erasure of a person's values (删除个人信息)."""
        return self.call(request, RequestErasureResponse)

    def confirm_erasure(self, request: ConfirmErasureRequest) -> ConfirmErasureResponse:
        """Confirms what another principal asked for. It cannot be undone."""
        return self.call(request, ConfirmErasureResponse)
