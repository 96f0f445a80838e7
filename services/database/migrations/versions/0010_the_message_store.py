"""The message store: monthly parts, sealed bytes, keyed hashes to search by, lanes."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_BAD = "state IN ('refused', 'failed', 'fragment', 'rejected')"
_PLAIN = (
    "id, received_at, direction, protocol, peer, sender, control_id, type, state, raw, ack, "
    "ack_code, error, study_id"
)


def upgrade() -> None:
    # The log's unique indexes hold the time now, and a row is written after what refers to it.
    _drop_references()
    op.rename_table("message_log", "message_log_before")
    # Their names are wanted for the new table's.
    op.execute("ALTER INDEX pk_message_log RENAME TO pk_message_log_before")
    op.execute("DROP INDEX ix_message_log_study_id, uq_message_log_inbound")
    op.execute(sa.schema.CreateSequence(sa.Sequence("message_number")))
    op.create_table(
        "message_log",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("peer", sa.Text(), nullable=False),
        sa.Column("sender", sa.Text(), server_default="", nullable=False),
        sa.Column("control_id", sa.Text(), server_default="", nullable=False),
        sa.Column("type", sa.Text(), server_default="", nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("key_id", sa.Text(), nullable=True),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("ack", sa.LargeBinary(), nullable=True),
        sa.Column("ack_code", sa.Text(), nullable=True),
        sa.Column("error", sa.Text(), nullable=True),
        sa.Column("study_id", sa.Text(), nullable=True),
        sa.Column("attempt_of", sa.BigInteger(), nullable=True),
        sa.Column(
            "blind_index",
            postgresql.ARRAY(sa.LargeBinary()),
            server_default="{}",
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("id", "received_at", name=op.f("pk_message_log")),
        postgresql_partition_by="RANGE (received_at)",
    )
    # Sealed bytes do not compress, so no time is spent on trying.
    op.execute(
        "ALTER TABLE message_log ALTER raw SET STORAGE EXTERNAL, ALTER ack SET STORAGE EXTERNAL"
    )
    op.execute("ALTER SEQUENCE message_number OWNED BY message_log.id")
    op.create_index("ix_message_log_control_id", "message_log", ["control_id"])
    for name in ("study_id", "attempt_of"):
        op.create_index(
            f"ix_message_log_{name}",
            "message_log",
            [name],
            postgresql_where=sa.text(f"{name} IS NOT NULL"),
        )
    op.create_index(
        "ix_message_log_received_at", "message_log", ["received_at"], postgresql_using="brin"
    )
    op.create_index(
        "ix_message_log_blind_index",
        "message_log",
        ["blind_index"],
        postgresql_using="gin",
        postgresql_with={"fastupdate": "off"},
    )
    op.create_index("ix_message_log_bad", "message_log", ["id"], postgresql_where=sa.text(_BAD))
    op.create_table(
        "message_key",
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_message_key")),
    )
    op.create_index(
        "ix_message_key_received_at", "message_key", ["received_at"], postgresql_using="brin"
    )
    _make_parts()
    # As they are: the key is a file that only the running installation has. `spinecho keys rotate
    # --reseal` seals them.
    op.execute(
        f"INSERT INTO message_log ({_PLAIN}) "  # noqa: S608 (names of ours)
        f"SELECT {_PLAIN.replace('received_at', 'at')} FROM message_log_before"
    )
    op.execute(
        "INSERT INTO message_key SELECT decode(digest, 'hex'), max(id), max(at) "
        "FROM message_log_before WHERE direction = 'in' AND state <> 'fragment' "
        "AND digest ~ '^[0-9a-f]{64}$' GROUP BY digest"
    )
    op.execute(
        "SELECT setval('message_number', max(id)) FROM message_log_before HAVING max(id) > 0"
    )
    op.drop_table("message_log_before")
    op.create_index("ix_delivery_destination_sent_at", "delivery", ["destination", "sent_at"])
    op.create_table(
        "lane",
        sa.Column("direction", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("broken", sa.Boolean(), nullable=False),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("direction", "name", name=op.f("pk_lane")),
    )


def _drop_references() -> None:
    connection = op.get_bind()
    found = connection.execute(
        sa.text(
            "SELECT conrelid::regclass::text, conname FROM pg_constraint "
            "WHERE contype = 'f' AND confrelid = 'message_log'::regclass"
        )
    )
    for table, constraint in found.all():
        op.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{constraint}"')


def _make_parts() -> None:
    # One for every month that a message is from, and for the next two.
    op.execute(
        """
        DO $$
        DECLARE month timestamp := date_trunc('month', coalesce(
            (SELECT min(at) FROM message_log_before), now()) AT TIME ZONE 'UTC');
        BEGIN
            WHILE month <= greatest(
                (SELECT max(at) FROM message_log_before) AT TIME ZONE 'UTC',
                now() AT TIME ZONE 'UTC' + interval '2 months')
            LOOP
                EXECUTE format(
                    'CREATE TABLE message_log_%s PARTITION OF message_log FOR VALUES FROM (%L) '
                    'TO (%L)', to_char(month, 'YYYY_MM'), month::date || ' 00:00+00',
                    (month + interval '1 month')::date || ' 00:00+00');
                month := month + interval '1 month';
            END LOOP;
        END $$
        """
    )


def downgrade() -> None:
    connection = op.get_bind()
    if connection.scalar(sa.text("SELECT count(*) FROM message_log WHERE key_id IS NOT NULL")):
        raise RuntimeError("sealed messages cannot go back into a table that holds them readable")
    op.drop_table("lane")
    op.drop_index("ix_delivery_destination_sent_at", "delivery")
    op.drop_table("message_key")
    op.execute("ALTER SEQUENCE message_number OWNED BY NONE")
    op.rename_table("message_log", "message_log_after")
    op.execute("ALTER INDEX pk_message_log RENAME TO pk_message_log_after")
    op.execute("DROP INDEX ix_message_log_study_id")
    op.create_table(
        "message_log",
        sa.Column("id", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        *(sa.Column(n, sa.Text(), nullable=False) for n in ("direction", "protocol", "peer")),
        *(
            sa.Column(n, sa.Text(), server_default="", nullable=False)
            for n in ("sender", "control_id", "type")
        ),
        sa.Column("digest", sa.Text(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("ack", sa.LargeBinary(), nullable=True),
        *(sa.Column(n, sa.Text(), nullable=True) for n in ("ack_code", "error", "study_id")),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["study_id"], ["study.id"], name=op.f("fk_message_log_study_id")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_message_log")),
    )
    op.create_index("ix_message_log_study_id", "message_log", ["study_id"])
    op.create_index(
        "uq_message_log_inbound",
        "message_log",
        ["sender", "control_id", "digest"],
        unique=True,
        postgresql_where=sa.text("direction = 'in'"),
    )
    op.execute(
        f"INSERT INTO message_log ({_PLAIN.replace('received_at', 'at')}, digest) "  # noqa: S608 (the same)
        f"SELECT {_PLAIN}, encode(sha256(raw), 'hex') FROM message_log_after "
        "ON CONFLICT DO NOTHING"
    )
    op.execute(
        "SELECT setval(pg_get_serial_sequence('message_log', 'id'), max(id)) FROM message_log "
        "HAVING max(id) > 0"
    )
    op.drop_table("message_log_after")
    op.execute("DROP SEQUENCE message_number")
    op.execute(
        "UPDATE delivery SET message_id = NULL WHERE message_id NOT IN (SELECT id FROM message_log)"
    )
    op.create_foreign_key(
        "fk_delivery_message_id", "delivery", "message_log", ["message_id"], ["id"]
    )
