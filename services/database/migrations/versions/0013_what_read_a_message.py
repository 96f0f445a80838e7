"""Which profile read a message; of a refusal by the placer, no words that may name a patient."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("message_log", sa.Column("profile", sa.Text(), nullable=True))
    # The words are in the answer, sealed. What is due has our own: why nobody was reached.
    op.execute("UPDATE status_notice SET error = NULL WHERE state <> 'due'")


def downgrade() -> None:
    op.drop_column("message_log", "profile")
