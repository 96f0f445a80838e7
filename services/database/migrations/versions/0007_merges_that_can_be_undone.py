"""Merges, moves and re-keys of patient records, and the record that each row was filed under."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

OWNED = ("imaging_order", "study")

# A writer may hold a record that retired a moment ago. The lock waits for a merge that is under
# way and then sees its outcome, so that no row is left behind with a retired record.
ROOT = """
CREATE FUNCTION patient_root(record text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    root text := record;
    above text;
BEGIN
    LOOP
        SELECT merged_into INTO above FROM patient WHERE id = root FOR KEY SHARE;
        EXIT WHEN above IS NULL;
        root := above;
    END LOOP;
    RETURN root;
END $$
"""
FILE = """
CREATE FUNCTION file_under_survivor() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    root text;
    home text;
BEGIN
    IF NEW.patient_id IS NULL THEN
        DELETE FROM patient_home WHERE kind = TG_TABLE_NAME AND key = NEW.id;
        RETURN NEW;
    END IF;
    root := patient_root(NEW.patient_id);
    IF root <> NEW.patient_id THEN
        SELECT home_id INTO home FROM patient_home WHERE kind = TG_TABLE_NAME AND key = NEW.id;
        -- Below the retired record there may be an older one that is the row's true home.
        IF home IS NULL OR patient_root(home) <> root THEN
            INSERT INTO patient_home (kind, key, home_id)
            VALUES (TG_TABLE_NAME, NEW.id, NEW.patient_id)
            ON CONFLICT (kind, key) DO UPDATE SET home_id = excluded.home_id;
        END IF;
        NEW.patient_id := root;
    ELSIF TG_OP = 'UPDATE' AND OLD.patient_id IS DISTINCT FROM NEW.patient_id THEN
        DELETE FROM patient_home WHERE kind = TG_TABLE_NAME AND key = NEW.id;
    END IF;
    RETURN NEW;
END $$
"""


def upgrade() -> None:
    op.create_table(
        "patient_change",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("survivor_id", sa.Text(), nullable=False),
        sa.Column("retired_id", sa.Text(), nullable=False),
        sa.Column("before", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("after", postgresql.JSONB(), server_default="{}", nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("message_id", sa.BigInteger()),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("undone_at", sa.DateTime(timezone=True)),
        sa.Column("undone_by", sa.Text(), server_default="", nullable=False),
        sa.Column("undone_why", sa.Text(), server_default="", nullable=False),
        sa.ForeignKeyConstraint(
            ["survivor_id"], ["patient.id"], name=op.f("fk_patient_change_survivor_id")
        ),
        sa.ForeignKeyConstraint(
            ["retired_id"], ["patient.id"], name=op.f("fk_patient_change_retired_id")
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["message_log.id"], name=op.f("fk_patient_change_message_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_patient_change")),
    )
    for column in ("survivor_id", "retired_id"):
        op.create_index(op.f(f"ix_patient_change_{column}"), "patient_change", [column])
    op.create_table(
        "patient_change_item",
        sa.Column("change_id", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("home_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["change_id"], ["patient_change.id"], name=op.f("fk_patient_change_item_change_id")
        ),
        sa.ForeignKeyConstraint(
            ["home_id"], ["patient.id"], name=op.f("fk_patient_change_item_home_id")
        ),
        sa.PrimaryKeyConstraint("change_id", "kind", "key", name=op.f("pk_patient_change_item")),
    )
    op.create_table(
        "patient_home",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("home_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["home_id"], ["patient.id"], name=op.f("fk_patient_home_home_id")),
        sa.PrimaryKeyConstraint("kind", "key", name=op.f("pk_patient_home")),
    )
    op.create_index(op.f("ix_patient_home_home_id"), "patient_home", ["home_id"])
    op.add_column("patient_identifier", sa.Column("retired_by", sa.BigInteger()))
    op.create_foreign_key(
        op.f("fk_patient_identifier_retired_by"),
        "patient_identifier",
        "patient_change",
        ["retired_by"],
        ["id"],
    )
    op.execute(ROOT)
    op.execute(FILE)
    for table in OWNED:
        op.execute(
            f"CREATE TRIGGER file_under_survivor BEFORE INSERT OR UPDATE OF patient_id ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION file_under_survivor()"
        )
    # What merges before this one moved has no known home: it stays with its survivor.


def downgrade() -> None:
    for table in OWNED:
        op.execute(f"DROP TRIGGER file_under_survivor ON {table}")
    op.execute("DROP FUNCTION file_under_survivor()")
    op.execute("DROP FUNCTION patient_root(text)")
    op.drop_constraint(op.f("fk_patient_identifier_retired_by"), "patient_identifier")
    op.drop_column("patient_identifier", "retired_by")
    for table in ("patient_home", "patient_change_item", "patient_change"):
        op.drop_table(table)
