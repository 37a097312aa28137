"""The tokens that any process has proven, in PostgreSQL."""

import asyncio

from harness.postgres import server
from ledger.tokens import SqlTokens
from tests.support.couriers import process_on
from tests.support.wiring import on_a_loop


@on_a_loop
async def test_a_proven_token_is_found_with_its_turn_and_time_until_it_is_dropped():
    with server().schema() as schema:
        async with process_on(server().url(schema=schema)) as (_, courier):
            tokens = SqlTokens(courier)
            await asyncio.gather(tokens.keep("user_1", "account one", 60.0), tokens.keep("user_2", "b", 0.0))
            await tokens.keep("user_1", "account two", 90.0)

            turn, left = await tokens.find("user_1")
            assert ("account two", True) == (turn, 0 < left <= 90)
            assert await tokens.find("user_2") is None
            await tokens.drop("user_1")
            assert await tokens.find("user_1") is None
