"""When a study last changed, and indexes for what FHIR searches by."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

# Not the tier, the hold or who has read it: a client that asks what is new would get it all again.
_TOLD = (
    "state, patient_id, order_id, accession, description, study_uid, started_at, ended_at, "
    "acquired_at, critical_at, triage, triage_text, version, priority, dicom_patient_name, "
    "dicom_patient_id, completeness"
)


def upgrade() -> None:
    op.add_column(
        "study",
        sa.Column(
            "updated_at",
            sa.DateTime(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
        ),
    )
    op.execute(
        "UPDATE study SET updated_at = greatest(created_at, started_at, ended_at, acquired_at, "
        "(SELECT max(signed_at) FROM report WHERE report.study_id = study.id))"
    )
    op.execute(
        """
        CREATE FUNCTION study_updated() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            NEW.updated_at := clock_timestamp();
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        f"CREATE TRIGGER study_updated BEFORE UPDATE OF {_TOLD} ON study "
        "FOR EACH ROW EXECUTE FUNCTION study_updated()"
    )
    op.create_index("ix_study_updated_at", "study", ["updated_at", "id"])
    op.create_index(
        "ix_study_started", "study", [sa.text("coalesce(started_at, created_at)"), "id"]
    )
    op.create_index("ix_patient_identifier_value", "patient_identifier", ["value"])
    op.create_index("ix_imaging_order_placer_number", "imaging_order", ["placer_number"])
    op.create_index("ix_patient_birth_date", "patient", ["birth_date"])
    op.create_index("ix_patient_updated_at", "patient", ["updated_at", "id"])
    for name in ("family", "given", "middle"):
        op.create_index(
            f"ix_patient_trait_{name}",
            "patient_trait",
            [name],
            postgresql_ops={name: "text_pattern_ops"},
        )


def downgrade() -> None:
    for name in ("family", "given", "middle"):
        op.drop_index(f"ix_patient_trait_{name}", table_name="patient_trait")
    op.drop_index("ix_patient_updated_at", table_name="patient")
    op.drop_index("ix_patient_birth_date", table_name="patient")
    op.drop_index("ix_imaging_order_placer_number", table_name="imaging_order")
    op.drop_index("ix_patient_identifier_value", table_name="patient_identifier")
    op.drop_index("ix_study_started", table_name="study")
    op.drop_index("ix_study_updated_at", table_name="study")
    op.execute("DROP TRIGGER study_updated ON study")
    op.execute("DROP FUNCTION study_updated()")
    op.drop_column("study", "updated_at")
