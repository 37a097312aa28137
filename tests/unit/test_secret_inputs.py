"""Secrets among the inputs are removed from what Replicate answers, and forgotten in time."""

import asyncio
from datetime import UTC, datetime

import pytest

from providers import Prediction
from providers.fingerprints import fingerprint
from providers.redaction import REDACTED
from providers.replicate.answers import read_page, read_prediction
from providers.replicate.errors import service_error
from providers.replicate.secret_inputs import KEPT, KEPT_FOR, SecretInputs
from providers.replicate.sharing import Sharing
from providers.replicate.transport import Refusal
from tests.support.virtual_time import in_virtual_time
from tests.support.wiring import ADMIN, USER


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_secret_is_removed_from_texts_for_its_caller_alone():
    secrets = SecretInputs()
    secrets.add(ADMIN, ["hf_marked"])

    assert f"401 for {REDACTED}" == secrets.redaction(ADMIN)("401 for hf_marked")
    assert "401 for hf_marked" == secrets.redaction(USER)("401 for hf_marked")


def test_the_token_and_other_secrets_are_removed_as_well():
    secrets = SecretInputs()
    secrets.add(ADMIN, ["hf_marked"])
    redact = secrets.redaction(ADMIN, "whsec_marked")

    assert f"{REDACTED} {REDACTED}" == redact(f"{ADMIN.credentials['replicate']} whsec_marked")


def test_a_secret_is_forgotten_an_hour_after_its_last_creation():
    clock = Clock()
    secrets = SecretInputs(clock=clock)
    secrets.add(ADMIN, ["hf_marked"])
    clock.now = KEPT_FOR - 1
    secrets.add(ADMIN, ["hf_marked", "hf_other"])
    clock.now = KEPT_FOR + 1
    assert REDACTED == secrets.redaction(ADMIN)("hf_marked")

    clock.now = 2 * KEPT_FOR
    assert "hf_marked" == secrets.redaction(ADMIN)("hf_marked")
    secrets.add(USER, ["hf_last"])
    assert "hf_marked" not in str(vars(secrets))


def test_the_secrets_of_one_caller_are_bounded():
    secrets = SecretInputs()
    secrets.add(ADMIN, [f"hf_number_{number}" for number in range(KEPT + 1)])

    assert "hf_number_0" == secrets.redaction(ADMIN)("hf_number_0")
    assert REDACTED == secrets.redaction(ADMIN)(f"hf_number_{KEPT}")


def test_words_that_every_answer_has_are_no_secrets():
    """A caller who gives such a word as a password must not lose the addresses of outputs."""
    secrets = SecretInputs()
    secrets.add(ADMIN, ["replicate", "https:", "delivery", "succeeded"])
    address = "https://replicate.delivery/a.png"

    assert address == secrets.redaction(ADMIN)(address)


PLACE = "https://replicate.delivery/x/0000-7a9.png"
SHORT_SECRETS = [
    ("7a9", "7a9", REDACTED),
    ("7a9", "401 for (7a9), not 7a98 or 07a9", f"401 for ({REDACTED}), not 7a98 or 07a9"),
    ("a b!", "a b!", REDACTED),
    ("7a9", "%37a%39", REDACTED),
    ("7a9", ["1", "7a9", "2"], ["1", REDACTED, "2"]),
    ("7a9", ["the 7", "a9 is", PLACE], [f"the {REDACTED} is", "", PLACE]),
    ("7a9", {"7a9": [["7a9"], 7]}, {REDACTED: [[REDACTED], 7]}),
    ("7a9", PLACE, PLACE),
    ("", "an output", "an output"),
    (" ", "an output", "an output"),
]


@pytest.mark.parametrize(("secret", "output", "expected"), SHORT_SECRETS)
def test_a_short_secret_is_removed_where_it_is_a_whole_word_of_a_text(secret, output, expected):
    secrets = SecretInputs()
    secrets.add(ADMIN, [secret])
    answer = {"id": "p-7a9", "status": "succeeded", "output": output, "metrics": {"7a9": "7a9"}}
    found = read_prediction(answer, secrets.redaction(ADMIN))

    assert expected == found.output
    assert ("p-7a9", ["7a9"]) == (found.id, list(found.metrics))
    assert (REDACTED if secret == "7a9" else "7a9") == found.metrics["7a9"]


def test_a_short_secret_is_removed_from_the_reason_of_a_refusal_and_a_failure():
    secrets = SecretInputs()
    secrets.add(ADMIN, ["7a9"])
    redact = secrets.redaction(ADMIN)
    refusal = Refusal(422, {}, b'{"detail": "- input.pin: 7a9 is wrong"}')
    failed = read_prediction({"id": "p", "status": "failed", "error": {"pin": "7a9"}}, redact)

    assert f"{REDACTED} is wrong" in service_error(refusal, ADMIN, redact).problems[0].message
    assert f'{{"pin": "{REDACTED}"}}' == failed.error


@pytest.mark.parametrize(
    ("shown", "is_seen"),
    [
        ({"prompt": "a fox", "hf_token": "hf_marked"}, False),
        ({"prompt": "a fox", "hf_token": "[REDACTED]"}, False),
        ({"prompt": "a fox"}, False),
        ({"prompt": "a cat", "hf_token": "hf_marked"}, True),
    ],
)
@in_virtual_time
async def test_a_prediction_with_a_secret_is_no_sign_of_another_program(shown, is_seen):
    sharing = Sharing(is_known=lambda _: False)
    sharing.begin(fingerprint({"prompt": "a fox"}), ["hf_token"])
    now = datetime.now(UTC)
    sharing.created(
        ADMIN, Prediction("p1", "starting", created_at=now), sent=asyncio.get_running_loop().time()
    )
    item = {"id": "p2", "status": "starting", "created_at": now.isoformat(), "input": shown}

    await sharing.listed(ADMIN, read_page({"results": [item], "next": None}))

    assert is_seen == sharing.is_seen
