"""What metered admission promises under load, in virtual time: full windows, and none over.

The upstream counts a call from its arrival, by windows of its own.
"""

import pytest

from tests.support.metered_load import MeteredLoad, mostly_short


@pytest.mark.parametrize("seed", range(1, 4))
@pytest.mark.parametrize(
    "large", [0.0, 0.02, 0.05, 0.2], ids=["calls bind", "both bind", "tokens bind", "large"]
)
def test_no_window_is_over_and_the_limit_that_binds_is_used_while_short_calls_wait(large, seed):
    load = MeteredLoad(
        calls=1500, slots=15, rpm=300, tpm=200_000, prompts=mostly_short(large), singles_every=2.0, seed=seed
    ).run()

    calls, tokens = load.most_in_a_minute()
    assert (True, True) == (calls <= 300, tokens <= 200_000)
    assert 0.95 <= min(max(minute) for minute in load.use())
    assert 5 <= len(load.use())


@pytest.mark.parametrize("large", [0.0, 0.05, 0.4])
def test_a_short_call_of_another_caller_goes_within_two_admissions(large):
    load = MeteredLoad(
        calls=1500, slots=15, rpm=300, tpm=200_000, prompts=mostly_short(large), singles_every=2.0
    ).run()

    assert 1 >= load.most_that_passed_a_single()


def test_five_thousand_calls_take_three_per_cent_more_than_the_ideal_at_most():
    load = MeteredLoad(calls=5000, slots=60, rpm=1000, tpm=10**9, prompts=mostly_short(0.05)).run()

    ideal = 4 * 60.0 + 1000 * 2.0 / 60  # four windows, and the last thousand through the slots
    assert 1000 >= load.most_in_a_minute()[0]
    assert 1.03 * ideal >= load.took
