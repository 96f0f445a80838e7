"""The patient index: what records say of their persons, and the keys to look them up by."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text(), server_default="", nullable=False)


# A message is written with its answer, after all that it caused.
CAUSED = ("patient_change", "appointment", "external_result")


def _refer(*, deferred: bool) -> None:
    for table in CAUSED:
        name = f"fk_{table}_message_id"
        if table != "patient_change":
            name += "_message_log"
        op.drop_constraint(op.f(name), table, type_="foreignkey")
        op.create_foreign_key(
            op.f(name),
            table,
            "message_log",
            ["message_id"],
            ["id"],
            deferrable=deferred,
            initially="DEFERRED" if deferred else None,
        )


def upgrade() -> None:
    _refer(deferred=True)
    op.create_table(
        "patient_trait",
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("digest", sa.Text(), nullable=False),
        *(_text(name) for name in ("family", "given", "middle", "tag", "sex")),
        sa.Column("newborn", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("unknown", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        sa.Column("birth_date", sa.Date()),
        sa.Column("since", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["patient.id"], name=op.f("fk_patient_trait_patient_id")
        ),
        sa.PrimaryKeyConstraint("patient_id", "digest", name=op.f("pk_patient_trait")),
    )
    op.create_table(
        "patient_key",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["patient.id"], name=op.f("fk_patient_key_patient_id")
        ),
        sa.PrimaryKeyConstraint("kind", "value", "patient_id", name=op.f("pk_patient_key")),
    )
    op.create_index("ix_patient_key_patient_id", "patient_key", ["patient_id"])


def downgrade() -> None:
    _refer(deferred=False)
    op.drop_table("patient_key")
    op.drop_table("patient_trait")
