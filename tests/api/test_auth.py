"""Authentication: accepted keys, the token that pays, and secrets that no response contains."""

import pytest

from auth import KEY_HEADER, Authenticator, Caller, credentials
from errors import Unauthenticated
from tests.support.callers import ADMIN, ADMIN_KEY, PICTURE, SERVER_TOKEN, USER, USER_TOKEN
from tests.support.problem_documents import problem

USER_HEADER = "X-Replicate-API-Key"
ADMIN_HEADER = "X-Admin-API-Key"


def paid_by(simulator):
    return [made.token for made in simulator.predictions()]


def test_the_admin_key_and_a_user_token_each_pay_with_their_own_token(client, simulator):
    client.post("/generate", json=PICTURE, headers=ADMIN)
    client.post("/generate", json=PICTURE, headers=USER)

    assert [SERVER_TOKEN, USER_TOKEN] == paid_by(simulator)


def test_the_admin_pays_if_both_keys_are_valid(client, simulator):
    client.post("/generate", json=PICTURE, headers=ADMIN | USER)

    assert [SERVER_TOKEN] == paid_by(simulator)


def bearer(token, scheme="Bearer"):
    return {"Authorization": f"{scheme} {token}"}


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_a_replicate_token_as_bearer_identifies_a_user(client, simulator, scheme):
    first = client.post("/generate", json=PICTURE, headers=bearer(USER_TOKEN, scheme))
    again = client.get(f"/generations/{first.json['id']}", headers=USER)

    assert [USER_TOKEN] == paid_by(simulator)
    assert first.json == again.json
    assert first.json == client.get(f"/generations/{first.json['id']}", headers=bearer(USER_TOKEN)).json
    problem(
        client.post("/configure", json={"concurrent_limit": 1}, headers=bearer(USER_TOKEN)), 403, "forbidden"
    )


def test_the_admin_header_decides_and_two_different_credentials_are_refused(client, simulator):
    client.post("/generate", json=PICTURE, headers=ADMIN | bearer("r8_other"))

    assert [SERVER_TOKEN] == paid_by(simulator)
    problem(client.post("/generate", json=PICTURE, headers=USER | bearer("r8_other")), 401, "unauthenticated")
    for wrong in ({ADMIN_HEADER: "wrong"}, {USER_HEADER: ""}, {USER_HEADER: "r8_a,r8_b"}):
        headers = wrong | bearer(USER_TOKEN)
        problem(client.post("/generate", json=PICTURE, headers=headers), 401, "unauthenticated")
    assert 1 == len(paid_by(simulator))


@pytest.mark.parametrize(
    "authorization",
    [
        "", "Bearer", "Bearer ", "Bearer r8", "r8_user", "Bearer sk-user", "Bearer eyJhbGciOi.e30.x", "Basic r8_user",
        "Bearer R8_user", "Bearerr8_user", "Bearer\tr8_user", "Token r8_user", "Bearer r8_a,r8_b", "Bearer r8_a r8_b",
        "Bearer r8_a, Bearer r8_a", "Bearer r8_\xe9", "Bearer r8_" + "x" * 253,
    ],
)  # fmt: skip
def test_other_authorization_headers_are_no_key(client, simulator, authorization):
    answer = client.post("/generate", json=PICTURE, headers={"Authorization": authorization})

    problem(answer, 401, "unauthenticated")
    assert {} == dict(simulator.counts().requests)


def test_the_admin_key_is_accepted_in_each_header(client, simulator):
    for headers in (bearer(ADMIN_KEY), {KEY_HEADER: ADMIN_KEY}, bearer(ADMIN_KEY) | {KEY_HEADER: ADMIN_KEY}):
        assert 200 == client.post("/generate", json=PICTURE, headers=headers).status_code
        assert 200 == client.get("/usage", headers=headers).status_code

    assert [SERVER_TOKEN] * 3 == paid_by(simulator)


def test_other_authorization_headers_beside_a_user_token_are_ignored(client, simulator):
    client.post("/generate", json=PICTURE, headers=USER | bearer("eyJhbGciOi.e30.x"))

    assert [USER_TOKEN] == paid_by(simulator)


def test_only_the_admin_is_accepted_without_user_tokens(make_app, simulator):
    client = make_app(ALLOW_USER_TOKENS=0).test_client()

    for method, path in (
        ("POST", "/generate"),
        ("POST", "/generate-batch"),
        ("POST", "/configure"),
        ("GET", "/generations"),
        ("GET", "/generations/gen_1"),
        ("DELETE", "/batches/batch_1"),
        ("GET", "/usage"),
    ):
        for headers in (USER, bearer(USER_TOKEN)):
            problem(client.open(path, method=method, json=PICTURE, headers=headers), 401, "unauthenticated")
    assert {} == dict(simulator.counts().requests)
    assert 200 == client.post("/generate", json=PICTURE, headers=ADMIN | USER).status_code


def test_a_wrong_key_is_an_error_only_where_a_key_changes_the_answer(client):
    for wrong in ({ADMIN_HEADER: "wrong"}, {"X-API-Key": "rcg_wrong"}):
        for path in (
            "/status", "/models", "/models/flux-dev", "/health", "/openapi.json", "/docs", "/models?kind=video",
        ):  # fmt: skip
            assert 200 == client.get(path, headers=wrong).status_code, path
        for path in ("/models?search=water", "/models/acme/watercolor"):
            assert 401 == client.get(path, headers=wrong).status_code, path


def test_a_wrong_admin_key_is_401_even_beside_a_good_user_token(client, simulator):
    for wrong in ("", " ", "wrong", ADMIN_KEY + "x", ADMIN_KEY[:-1], ADMIN_KEY.upper(), "\xe9"):
        headers = USER | {ADMIN_HEADER: wrong}
        problem(client.post("/generate", json=PICTURE, headers=headers), 401, "unauthenticated")

    assert [] == paid_by(simulator)


@pytest.mark.parametrize("unset", ["", "   ", "\t"])
def test_no_admin_key_is_accepted_if_none_is_configured(make_app, simulator, unset):
    client = make_app(CONCURRENT_DOCKER_ADMIN_API_KEY=unset).test_client()

    for path in ("/generate", "/generate-batch", "/configure"):
        for presented in (None, "", " ", "None", "null", "\t", ADMIN_KEY):
            headers = {} if presented is None else {ADMIN_HEADER: presented}
            problem(client.post(path, json=PICTURE, headers=headers), 401, "unauthenticated")

    assert {} == dict(simulator.counts().requests)


@pytest.mark.parametrize("key", [None, ""])
@pytest.mark.parametrize("presented", ["", "None", "anything"])
def test_an_unset_admin_key_does_not_equal_an_empty_header(key, presented):
    authenticator = Authenticator(admin_key=key, server_token="r8_server")

    with pytest.raises(Unauthenticated):
        authenticator.payer({ADMIN_HEADER: presented})


def test_no_similar_character_is_accepted_in_the_admin_key():
    authenticator = Authenticator(admin_key="what?", server_token="r8_server")

    with pytest.raises(Unauthenticated):
        authenticator.payer({ADMIN_HEADER: "what\u0142"})


@pytest.mark.parametrize("door", [ADMIN_HEADER, USER_HEADER])
def test_a_key_sent_twice_is_refused(client, simulator, door):
    value = ADMIN_KEY if door == ADMIN_HEADER else USER_TOKEN

    answer = client.post("/generate", json=PICTURE, headers=[(door, value), (door, value)])

    problem(answer, 401, "unauthenticated")
    assert [] == paid_by(simulator)


def test_a_malformed_token_is_refused_without_a_request_to_replicate(client, simulator):
    for token in (
        "",
        " ",
        "r8_a,r8_b",
        "r8_a r8_b",
        "r8_a\tb",
        "r8_\xe9",
        "r8_" + "x" * 253,
        "\x7f",
        "r8_a\0",
    ):
        headers = {USER_HEADER: token}
        problem(client.post("/generate", json=PICTURE, headers=headers), 401, "unauthenticated")

    assert {} == dict(simulator.counts().requests)


@pytest.mark.parametrize("token", ["r8_a\rb", "r8_a\nAuthorization: x", "r8_a\r\n\r\n", "r8_a\n"])
def test_a_token_with_a_line_break_is_refused(token):
    with pytest.raises(Unauthenticated):
        Authenticator(admin_key=None, server_token=None).payer({USER_HEADER: token})


def test_the_longest_token_is_accepted():
    assert 255 == len(
        Authenticator(admin_key=None, server_token=None)
        .payer({USER_HEADER: "x" * 255})
        .credentials["replicate"]
    )


@pytest.mark.parametrize("path", ["/generate", "/generate-batch", "/configure"])
def test_a_request_without_a_key_is_refused(client, path):
    problem(client.post(path, json=PICTURE), 401, "unauthenticated")


def test_the_caller_is_authenticated_before_the_body_is_validated(client):
    problem(client.post("/generate", data=b"\xff"), 401, "unauthenticated")


def test_a_user_cannot_change_the_limits(client):
    before = client.get("/status").json["concurrency"]

    problem(client.post("/configure", json={"concurrent_limit": 1}, headers=USER), 403, "forbidden")

    assert before == client.get("/status").json["concurrency"]


def test_caller_ids_differ_and_reveal_no_token():
    authenticator = Authenticator(admin_key="key", server_token="r8_server", hash_key=b"k" * 32)
    ids = [authenticator.payer({USER_HEADER: f"r8_{number}"}).id for number in range(100)]

    assert 100 == len(set(ids))
    assert all("r8_" not in each for each in ids)
    assert ids[0] == authenticator.payer({USER_HEADER: "r8_0"}).id
    assert ids[0] != Authenticator(admin_key="key", server_token=None).payer({USER_HEADER: "r8_0"}).id


def test_no_repr_shows_a_token():
    authenticator = Authenticator(admin_key="the-key", server_token="r8_server")
    shown = repr(
        [
            authenticator,
            authenticator.payer({ADMIN_HEADER: "the-key"}),
            authenticator.payer({USER_HEADER: "r8_user"}),
        ]
    )

    assert not [secret for secret in ("the-key", "r8_server", "r8_user") if secret in shown]
    tokens = credentials(replicate="r8_user")
    assert "r8_user" not in f"{Caller('user', 'user_1', tokens)} {tokens} {list(tokens.items())}"


def test_no_response_contains_a_token_or_key(client):
    answers = [
        client.open(path, method=method, json=body, headers=headers)
        for path, method, body in (
            ("/generate", "POST", PICTURE),
            ("/generate", "POST", {"model_name": "nothing"}),
            ("/generate", "POST", PICTURE | {"prompt": "[[fail]]"}),
            ("/generate-batch", "POST", {"model_name": "flux-dev", "prompts": ["a", "[[nsfw]]"]}),
            ("/configure", "POST", {"concurrent_limit": 3}),
            ("/status", "GET", None),
            ("/models", "GET", None),
            ("/health", "GET", None),
            ("/openapi.json", "GET", None),
            ("/docs", "GET", None),
            ("/nowhere", "GET", None),
        )
        for headers in (
            ADMIN, USER, bearer(USER_TOKEN), {ADMIN_HEADER: "wrong-key"}, {USER_HEADER: "wrong,key"},
            bearer("r8_wrong,key"),
        )
    ]  # fmt: skip

    for answer in answers:
        seen = answer.get_data(as_text=True) + str(answer.headers)
        secrets = (ADMIN_KEY, SERVER_TOKEN, USER_TOKEN, "wrong-key", "wrong,key")
        assert not [secret for secret in secrets if secret in seen]
