"""Uploads as inputs of predictions, and inputs that depend on each other."""

import hashlib
import io

import pytest

from tests.unit.simulator.creations import (
    BANANA,
    MINE,
    OTHERS,
    PRO,
    VEO,
)


class Zeros(io.RawIOBase):
    """A file of `size` zeros that takes no memory."""

    def __init__(self, size):
        self.left = size

    def readable(self):
        return True

    def readinto(self, buffer):
        size = min(self.left, len(buffer))
        buffer[:size] = bytes(size)
        self.left -= size
        return size


def upload(http, content=b"12345", *, headers=MINE):
    file = io.BufferedReader(content) if isinstance(content, Zeros) else content
    return http.post("/v1/files", files={"content": ("cat.png", file, "image/png")}, headers=headers)


def test_uploads_are_recorded_with_size_and_checksum(sim, http):
    content = bytes(range(256)) * 2**17  # larger than any other body may be

    facts = upload(http, content).json()
    upload(http, headers=OTHERS)

    first, second = sim.uploads()
    expected = (facts["id"], "cat.png", "image/png", 2**25, hashlib.sha256(content).hexdigest(), "r8_mine")
    assert expected == (first.id, first.name, first.content_type, first.size, first.sha256, first.token)
    assert "r8_other" == second.token
    assert "r8_" not in repr(second)
    assert {"file": 2} == sim.counts().requests
    sim.reset()
    assert [] == sim.uploads()


def test_an_upload_of_100_mebibytes_is_accepted_and_one_byte_more_is_refused(sim, http):
    assert 201 == upload(http, Zeros(100 * 2**20)).status_code
    assert 413 == upload(http, Zeros(100 * 2**20 + 1)).status_code
    assert [100 * 2**20] == [each.size for each in sim.uploads()]


def test_an_upload_is_a_valid_input_for_a_day(http, clock, outcome):
    file = upload(http).json()["urls"]["get"]

    assert "succeeded" == outcome(image=file)["status"]
    clock.advance(seconds=24 * 3600 - 1)
    assert "succeeded" == outcome(image=file)["status"]
    clock.advance(seconds=1)
    expected = ("failed", f"Failed to download input.image: 404 Not Found for {file}", None)
    ended = outcome(image=file)
    assert expected == (ended["status"], ended["error"], ended["output"])
    assert 404 == http.get(file, headers=MINE).status_code


def test_another_accounts_upload_is_an_invalid_input(http, outcome):
    file = upload(http).json()["urls"]["get"]

    assert "failed" == outcome(image=file, headers=OTHERS)["status"]


def test_a_missing_upload_in_a_list_of_inputs_fails_the_prediction(sim, http, outcome):
    real, missing = upload(http).json()["urls"]["get"], f"{sim.url}/v1/files/nothing"

    assert "succeeded" == outcome(model=BANANA, image_input=[real, real])["status"]
    ended = outcome(model=BANANA, image_input=[real, missing])
    assert f"Failed to download input.image_input: 404 Not Found for {missing}" == ended["error"]
    assert 0.039 == sim.counts().billed_usd


def test_urls_of_other_hosts_and_in_prompts_or_unknown_inputs_are_not_checked(sim, outcome):
    missing = f"{sim.url}/v1/files/nothing"

    assert "succeeded" == outcome(image="https://example.com/v1/files/nothing")["status"]
    assert "succeeded" == outcome(missing)["status"]
    assert "succeeded" == outcome(no_such_input=missing)["status"]


def test_a_missing_input_overrides_the_directives(sim, outcome):
    missing = f"{sim.url}/v1/files/nothing"

    for prompt in ("a fox", "[[hang]]", "[[early]]", "[[slow=0]]"):
        ended = outcome(prompt, image=missing)
        assert ("failed", True) == (
            ended["status"],
            ended["error"].startswith("Failed to download input.image"),
        )


@pytest.mark.parametrize("ratio", [{}, {"aspect_ratio": "16:9"}])
def test_width_and_height_are_refused_without_a_custom_ratio(outcome, ratio):
    refused = outcome(model=PRO, width=512, height=1024, **ratio)

    reason = "Only allowed when aspect_ratio is custom"
    assert [
        {"type": "number_not", "field": f"input.{side}", "description": reason}
        for side in ("width", "height")
    ] == refused["invalid_fields"]
    assert "succeeded" == outcome(model=PRO, width=512, height=1024, aspect_ratio="custom")["status"]


def test_a_whole_float_is_accepted_as_an_integer(http, outcome):
    assert 3 == len(outcome(num_outputs=3.0)["output"])
    film = outcome(model=VEO, duration=4.0)["output"]
    assert "video/mp4" == http.get(film).headers["Content-Type"]
