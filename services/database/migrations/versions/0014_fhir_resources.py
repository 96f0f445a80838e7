"""FHIR resources that came or are shown, with their versions."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "fhir_resource",
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), server_default="0", nullable=False),
        sa.Column("shown", sa.LargeBinary()),
        sa.Column("updated_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("content", sa.Text()),
        sa.Column("release", sa.Text(), server_default="", nullable=False),
        sa.Column("digest", sa.LargeBinary()),
        sa.Column("identifiers", postgresql.ARRAY(sa.Text()), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("kind", "id", name=op.f("pk_fhir_resource")),
    )
    op.create_index("ix_fhir_resource_digest", "fhir_resource", ["kind", "digest"])
    op.create_index(
        "ix_fhir_resource_identifiers", "fhir_resource", ["identifiers"], postgresql_using="gin"
    )


def downgrade() -> None:
    op.drop_table("fhir_resource")
