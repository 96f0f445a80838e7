"""The last number taken of each HL7 sender that numbers its messages (MSH-13)."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hl7_sequence",
        sa.Column("sender", sa.Text(), nullable=False),
        sa.Column("last", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("sender", name=op.f("pk_hl7_sequence")),
    )


def downgrade() -> None:
    op.drop_table("hl7_sequence")
