"""Who is to perform a step: Scheduled Performing Physician (0040,0006)."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "scheduled_step", sa.Column("performing", sa.Text(), server_default="", nullable=False)
    )


def downgrade() -> None:
    op.drop_column("scheduled_step", "performing")
