"""Which order a decision of the desk gave images to, and where to look for such an order."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

_CORE = r"ltrim(regexp_replace(accession, '\D'::text, ''::text, 'g'::text), '0'::text)"


def upgrade() -> None:
    op.add_column("desk_decision", sa.Column("order_id", sa.Text()))
    op.create_foreign_key(
        op.f("fk_desk_decision_order_id"), "desk_decision", "imaging_order", ["order_id"], ["id"]
    )
    op.add_column(
        "desk_decision",
        sa.Column("before", postgresql.JSONB(), server_default="{}", nullable=False),
    )
    op.create_index("ix_imaging_order_accession_core", "imaging_order", [sa.text(_CORE)])
    op.create_index("ix_scheduled_step_station", "scheduled_step", ["station_aet", "start_at"])


def downgrade() -> None:
    op.drop_index("ix_scheduled_step_station", table_name="scheduled_step")
    op.drop_index("ix_imaging_order_accession_core", table_name="imaging_order")
    op.drop_column("desk_decision", "before")
    op.drop_column("desk_decision", "order_id")
