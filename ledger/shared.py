"""Tables and statements by which several processes share one ledger in PostgreSQL."""

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Double,
    Index,
    Integer,
    SmallInteger,
    Table,
    Text,
    func,
    text,
)

from ledger.tables import SHARED, Statements

LEASES: Final = Table(
    "leases",
    SHARED,
    Column("id", Text, primary_key=True),
    Column("process", Text),
    Column("caller", Text, nullable=False),
    Column("batch", Text),
    Column("max_concurrent", Integer),
    Column("semaphore", Text),
    Column("state", SmallInteger, nullable=False),
    Column("reference", Text),
    Column("runs_for", Double),
    Column("wanted_at", DateTime(timezone=True), nullable=False, server_default=text("clock_timestamp()")),
    Column("sent_at", DateTime(timezone=True)),
    Column("answered_at", DateTime(timezone=True)),
    Column("left_at", DateTime(timezone=True)),
    Column("granted", Boolean, nullable=False, server_default=text("false")),
    Column("seen", SmallInteger, nullable=False, server_default=text("-1")),
    Column("boots", Text),
    Column("started", Boolean, nullable=False, server_default=text("false")),
    Column("account", Text),
    Column("model", Text),
    Column("tokens", Integer),
    Column("micro_usd", BigInteger),
    Column("ended_at", DateTime(timezone=True)),
    # Rows are written again and again, and live for about a minute.
    postgresql_with={"fillfactor": 70, "autovacuum_vacuum_scale_factor": 0.05},
)
"""Requests to the gate. The process writes `state`, `reference`, `runs_for`, `boots`, `started` and the dates. The
holder of the gate writes `granted`, and in `seen` the last state that it has seen. `runs_for` are the most seconds that
the prediction may run. `boots` is the version whose boot it may wait for, until it has `started`. Calls have an
`account`, a `model`, `tokens` and `micro_usd` (`ledger/records.py`), and `ended_at`, when they had ended or were lost.
A row with an account and no model says that an account was answered a request that needs no admission. `left_at` is the
time until which a dead process may have sent the creation. All times are by the clock of the database."""

Index("leases_unseen", LEASES.c.id, postgresql_where=text("seen <> state"))
Index("leases_of_process", LEASES.c.process)

ROLES: Final = Table(
    "roles",
    SHARED,
    Column("name", Text, primary_key=True),
    Column("holder", Text),
    Column("term", BigInteger, nullable=False),
    Column("until", DateTime(timezone=True), nullable=False),
    Column("answered_at", DateTime(timezone=True)),
    Column("figures", Text),
    Column("figured_at", DateTime(timezone=True)),
)
"""The role `gate`: its `holder`, until when it holds the role without another sign, and its latest figures as JSON.
Each change of the holder begins a `term`. `answered_at` is when the latest answered request to the upstream was
sent."""

LETTERS: Final = Table(
    "letters",
    SHARED,
    Column("id", Text, primary_key=True),
    Column("sender", Text, nullable=False),
    Column("recipient", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("reply_to", Text),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
)
"""Letters between processes (`letters.py`). `recipient` is a process, or `gate` for the one that holds the gate."""

LEASE_STATEMENTS: Final = Statements(
    """
    INSERT INTO leases
        (id, process, caller, batch, max_concurrent, semaphore, state, reference, boots, started, account, model,
        tokens, micro_usd, sent_at, answered_at, ended_at)
    SELECT id, process, caller, batch, max_concurrent, semaphore, state, reference, boots, started, account, model,
        tokens, micro_usd,
        clock_timestamp() - make_interval(secs => sent_ago),
        CASE WHEN state >= 4 THEN clock_timestamp() END,
        CASE WHEN state IN (3, 5) AND account IS NOT NULL THEN clock_timestamp() END
    FROM json_to_recordset(%s) AS rows (
        id text, process text, caller text, batch text, max_concurrent int, semaphore text, state smallint,
        reference text, sent_ago float8, boots text, started boolean, account text, model text, tokens int,
        micro_usd bigint
    )
    ORDER BY id
    ON CONFLICT (id) DO UPDATE SET
        state = greatest(leases.state, excluded.state),
        reference = coalesce(excluded.reference, leases.reference),
        sent_at = coalesce(excluded.sent_at, leases.sent_at),
        answered_at = coalesce(leases.answered_at, excluded.answered_at),
        ended_at = coalesce(leases.ended_at, excluded.ended_at),
        started = leases.started OR excluded.started,
        tokens = coalesce(excluded.tokens, leases.tokens),
        micro_usd = coalesce(excluded.micro_usd, leases.micro_usd),
        seen = CASE WHEN excluded.started AND NOT leases.started
                OR excluded.tokens IS DISTINCT FROM leases.tokens
                OR excluded.micro_usd IS DISTINCT FROM leases.micro_usd
            THEN -1 ELSE leases.seen END
    WHERE leases.process = excluded.process
    """,
    ["DELETE FROM leases WHERE id = %s"],
)
"""The statements that write leases, whose rows are JSON (`json_rows.py`). A state never goes back, so a row may be
written twice. One that has started is shown to the holder of the gate again. All transactions lock leases in the order
of their ids, so that none waits for one that waits for it."""
