"""What was decided about a row of the reconciliation desk, by whom, and whether it was undone."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text(), server_default="", nullable=False)


def upgrade() -> None:
    op.create_index(
        "ix_desk_open", "desk", ["at", "id"], postgresql_where=sa.text("resolved_at IS NULL")
    )
    op.create_table(
        "desk_decision",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("desk_id", sa.BigInteger(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("chosen_id", sa.Text()),
        sa.Column("before_id", sa.Text()),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        _text("approved_by"),
        sa.Column("done_at", sa.DateTime(timezone=True)),
        sa.Column("undone_at", sa.DateTime(timezone=True)),
        _text("undone_by"),
        _text("undone_why"),
        sa.ForeignKeyConstraint(["desk_id"], ["desk.id"], name=op.f("fk_desk_decision_desk_id")),
        sa.ForeignKeyConstraint(
            ["chosen_id"], ["patient.id"], name=op.f("fk_desk_decision_chosen_id")
        ),
        sa.ForeignKeyConstraint(
            ["before_id"], ["patient.id"], name=op.f("fk_desk_decision_before_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_desk_decision")),
    )
    op.create_index(op.f("ix_desk_decision_desk_id"), "desk_decision", ["desk_id"])
    op.create_index(
        "uq_desk_decision_standing",
        "desk_decision",
        ["desk_id"],
        unique=True,
        postgresql_where=sa.text("undone_at IS NULL"),
    )


def downgrade() -> None:
    op.drop_table("desk_decision")
    op.drop_index("ix_desk_open", table_name="desk")
