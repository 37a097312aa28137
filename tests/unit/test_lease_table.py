"""The rows of the shared gate in PostgreSQL, as their holder sees them."""

from dataclasses import replace

from harness.postgres import server
from ledger.courier import Courier
from ledger.leases import LeaseTable
from ledger.postgres import PostgresBackend
from ledger.records import LeaseRecord
from ledger.writer import SqlLedger
from tests.support.ledgers import running
from tests.support.wiring import on_a_loop

ID = "lease"


@on_a_loop
async def test_the_holder_sees_all_leases_again_after_the_server_may_have_lost_its_grants():
    with server().schema() as schema:
        backend = PostgresBackend(server().url(schema=schema), alone=False)
        with running(SqlLedger(backend)) as ledger:
            courier = Courier(backend)
            courier.start()
            try:
                table = LeaseTable(courier, backend.process)
                first = await table.look(None)
                ledger.upsert(LeaseRecord(id=ID, caller="anna"))
                await ledger.flush()
                seen = await table.look(first.term)
                assert [ID] == [each.id for each in seen.rows]
                assert await table.grant(first.term, [ID])
                assert not (await table.look(first.term)).rows

                own = await courier.run(lambda cursor: cursor.connection.info.backend_pid)
                server().execute(
                    f"SELECT pg_terminate_backend({own}, 1000)",
                    f"UPDATE {schema}.leases SET granted = false",
                )
                after = await table.look(first.term)

                assert first.term + 1 == after.term
                assert [replace(seen.rows[0], wanted_ago=0.0)] == [
                    replace(each, wanted_ago=0.0) for each in after.rows
                ]
                assert not await table.grant(first.term, [ID])
                assert await table.grant(after.term, [ID])
                assert {ID} == await table.granted()
            finally:
                await courier.aclose()
