"""Who pays for a call to a text model, by headers and by the key in its body."""

import pytest

from auth import Authenticator
from errors import ServerTokenRejected, Unauthenticated
from errors.calls import ServerGeminiKeyRejected

ADMIN = {"X-Admin-API-Key": "a-long-admin-key"}


def doors(**more) -> Authenticator:
    return Authenticator(
        **{"admin_key": "a-long-admin-key", "server_token": "r8_server", "server_key": "AQ.server", **more}
    )


def paid(headers, in_body=None, *, is_open=False, **more):
    found = doors(**more).call_payer(headers, in_body, is_open=is_open)
    return found.kind, found.credentials["gemini"]


@pytest.mark.parametrize("name", ["X-Admin-API-Key", "Admin-API-Key"])
def test_the_admin_header_decides_and_a_key_in_the_body_is_ignored(name):
    assert ("admin", "AQ.server") == paid({name: "a-long-admin-key"}, "AQ.theirs")


@pytest.mark.parametrize("name", ["X-Admin-API-Key", "Admin-API-Key"])
def test_a_wrong_admin_key_is_refused_also_beside_valid_keys(name):
    with pytest.raises(Unauthenticated):
        paid({name: "wrong", "X-Gemini-API-Key": "AQ.theirs"}, "AQ.theirs", is_open=True)


def test_two_different_admin_headers_are_refused():
    with pytest.raises(Unauthenticated, match="different"):
        paid({**ADMIN, "Admin-API-Key": "another"})


@pytest.mark.parametrize(
    ("headers", "in_body"),
    [
        ({"X-Gemini-API-Key": "AQ.theirs"}, None),
        ({}, "AQ.theirs"),
        ({"X-Gemini-API-Key": "AQ.theirs"}, "AQ.theirs"),
    ],
)
def test_a_key_of_the_caller_pays(headers, in_body):
    assert ("user", "AQ.theirs") == paid(headers, in_body)


@pytest.mark.parametrize(
    "headers", [{"X-Gemini-API-Key": "AQ.other"}, {"X-API-Key": "rcg_x"}, {"X-Replicate-API-Key": "r8_x"}]
)
def test_two_different_credentials_are_refused(headers):
    with pytest.raises(Unauthenticated):
        paid(headers, "AQ.theirs")


def test_without_any_key_the_service_pays_only_if_the_operator_has_opened_it():
    with pytest.raises(Unauthenticated, match="Provide 'Admin-API-Key' in headers or complete credentials"):
        paid({})
    assert ("open", "AQ.server") == paid({}, is_open=True)
    with pytest.raises(Unauthenticated):
        paid({}, is_open=True, server_key=None)


def test_each_provider_needs_its_own_credential():
    with pytest.raises(ServerGeminiKeyRejected):
        paid(ADMIN, server_key=None)
    with pytest.raises(ServerTokenRejected):
        doors(server_token=None).payer(ADMIN)
    with pytest.raises(Unauthenticated):
        paid({"X-Replicate-API-Key": "r8_x"})
    with pytest.raises(Unauthenticated):
        doors().payer({"X-Gemini-API-Key": "AQ.theirs"})


def test_the_id_of_a_caller_without_a_key_finds_it_again_after_a_restart():
    first = doors().call_payer({}, None, is_open=True)

    assert first == doors().caller_of(first.id)
    assert first.account == doors().call_payer(ADMIN, None, is_open=False).account
