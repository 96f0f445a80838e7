"""Which instances were filed by the desk under UIDs that their files do not say."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instance", sa.Column("apart_at", sa.DateTime(timezone=True)))


def downgrade() -> None:
    op.drop_column("instance", "apart_at")
