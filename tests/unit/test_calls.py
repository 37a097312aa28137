"""The neutral values of calls, and the errors that end them."""

import asyncio

from errors import OutcomeUnknown
from errors.listing import every_error, restored
from providers.calls import CallLost, Partial, Usage, attach_partial, partial_of


def test_thinking_is_part_of_the_total_and_cached_tokens_are_not_added_again():
    assert (
        623
        == Usage(prompt_tokens=20, cached_tokens=8, completion_tokens=198, thinking_tokens=405).total_tokens
    )


def test_a_lost_call_is_an_outcome_unknown_that_may_be_paid_and_has_its_partial_answer():
    lost = CallLost("The connection ended.", partial=Partial("Once upon", Usage(prompt_tokens=4)))

    assert isinstance(lost, OutcomeUnknown)
    assert ("outcome_unknown", True, "false") == (lost.code, lost.may_be_paid, lost.headers["x-should-retry"])
    assert "Once upon" == lost.partial.text == partial_of(lost).text


def test_an_error_of_a_provider_does_not_take_the_place_of_a_code_in_the_list_of_errors():
    assert OutcomeUnknown in every_error()
    assert CallLost not in every_error()
    assert OutcomeUnknown is type(restored(CallLost("Lost.").as_item()))


async def cancelled_with(partial):
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError as error:
        attach_partial(error, partial)
        raise


def test_a_cancelled_call_has_its_partial_answer_within_its_task():
    async def main():
        try:
            async with asyncio.timeout(0):
                await cancelled_with(Partial("so far"))
        except TimeoutError as error:
            return partial_of(error.__cause__)

    assert Partial("so far") == asyncio.run(main())
    assert None is partial_of(asyncio.CancelledError())
