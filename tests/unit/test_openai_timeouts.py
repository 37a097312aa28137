"""When a call of OpenAI's clients is answered that its work still runs."""

import pytest

from doors.openai.requests import wait_seconds


@pytest.mark.parametrize(
    ("timeout", "seconds"),
    [("600", 595), ("600.0", 595), ("10", 5), ("8", 3), ("7.5", 2.5), ("6", 2.5), ("5", 2.5), ("1.5", 0.75)],
)
def test_the_answer_comes_five_seconds_before_the_client_stops_or_leaves_the_work_some_time(timeout, seconds):
    assert seconds == wait_seconds(timeout)


@pytest.mark.parametrize("timeout", [None, "", "soon", "0", "-1", "inf", "nan", "1e999"])
def test_without_a_timeout_that_is_a_length_of_time_a_call_waits_for_its_end(timeout):
    assert wait_seconds(timeout) is None
