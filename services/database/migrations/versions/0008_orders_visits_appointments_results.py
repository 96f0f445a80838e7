"""All that an order, a visit, an appointment and another system's result say."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def _details(table: str) -> None:
    op.add_column(
        table,
        sa.Column(
            "details", postgresql.JSONB(astext_type=sa.Text()), server_default="{}", nullable=False
        ),
    )


def _text(name: str) -> sa.Column:
    return sa.Column(name, sa.Text(), server_default="", nullable=False)


def _time(name: str, *, required: bool = False) -> sa.Column:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=not required)


def upgrade() -> None:
    for table in ("patient", "imaging_order"):
        _details(table)
    op.add_column("patient_identifier", _text("universal_id"))
    op.add_column("patient_identifier", _text("universal_type"))
    for name in ("replaced_by", "parent_id"):
        op.add_column("imaging_order", sa.Column(name, sa.Text()))
        op.create_foreign_key(
            op.f(f"fk_imaging_order_{name}_imaging_order"),
            "imaging_order",
            "imaging_order",
            [name],
            ["id"],
        )
    op.drop_constraint(
        op.f("uq_imaging_order_placer_authority_placer_number"), "imaging_order", type_="unique"
    )
    op.create_unique_constraint(
        "uq_imaging_order_procedure",
        "imaging_order",
        ["placer_authority", "placer_number", "requested_procedure_id"],
    )
    op.create_index(
        op.f("ix_imaging_order_filler_number"), "imaging_order", ["filler_number"], unique=False
    )
    op.drop_index("ix_scheduled_step_open", table_name="scheduled_step")
    op.create_index(
        "ix_scheduled_step_open",
        "scheduled_step",
        ["start_at"],
        postgresql_where=sa.text("status IN ('SCHEDULED', 'ARRIVED')"),
    )
    op.create_table(
        "patient_link",
        sa.Column("patient_id", sa.Text(), nullable=False),
        sa.Column("other_id", sa.Text(), nullable=False),
        _time("at", required=True),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["patient.id"], name=op.f("fk_patient_link_patient_id_patient")
        ),
        sa.ForeignKeyConstraint(
            ["other_id"], ["patient.id"], name=op.f("fk_patient_link_other_id_patient")
        ),
        sa.PrimaryKeyConstraint("patient_id", "other_id", name=op.f("pk_patient_link")),
    )
    op.create_table(
        "visit",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("patient_id", sa.Text(), nullable=False),
        _text("number"),
        _text("authority"),
        _text("account"),
        sa.Column("state", sa.Text(), nullable=False),
        _text("patient_class"),
        _text("location"),
        _text("referring"),
        _text("reason"),
        _time("admitted_at"),
        _time("discharged_at"),
        _time("updated_at", required=True),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["patient.id"], name=op.f("fk_visit_patient_id_patient")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_visit")),
        sa.UniqueConstraint(
            "patient_id",
            "authority",
            "number",
            name=op.f("uq_visit_patient_id_authority_number"),
        ),
    )
    op.create_index(op.f("ix_visit_number"), "visit", ["number"], unique=False)
    op.create_table(
        "appointment",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        _time("start_at"),
        sa.Column("order_id", sa.Text()),
        sa.Column("sps_id", sa.Text()),
        sa.Column("patient_id", sa.Text()),
        _text("order_placer"),
        _text("order_filler"),
        _text("location"),
        _text("station"),
        _text("sender"),
        sa.Column("message_id", sa.BigInteger()),
        _time("updated_at", required=True),
        sa.ForeignKeyConstraint(
            ["order_id"], ["imaging_order.id"], name=op.f("fk_appointment_order_id_imaging_order")
        ),
        sa.ForeignKeyConstraint(
            ["patient_id"], ["patient.id"], name=op.f("fk_appointment_patient_id_patient")
        ),
        sa.ForeignKeyConstraint(
            ["message_id"],
            ["message_log.id"],
            name=op.f("fk_appointment_message_id_message_log"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_appointment")),
        sa.UniqueConstraint("key", name=op.f("uq_appointment_key")),
    )
    op.create_index(op.f("ix_appointment_order_id"), "appointment", ["order_id"], unique=False)
    op.create_index(
        "ix_appointment_unjoined",
        "appointment",
        ["order_placer"],
        postgresql_where=sa.text("order_id IS NULL"),
    )
    op.create_table(
        "external_result",
        sa.Column("id", sa.BigInteger(), sa.Identity(), nullable=False),
        sa.Column("study_id", sa.Text()),
        _text("study_uid"),
        _text("accession"),
        _text("placer_number"),
        _text("filler_number"),
        _text("sender"),
        _text("status"),
        _text("procedure"),
        _text("author"),
        sa.Column("critical", sa.Boolean(), server_default=sa.text("false"), nullable=False),
        _time("observed_at"),
        sa.Column("message_id", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.SmallInteger(), nullable=False),
        _time("received_at", required=True),
        sa.ForeignKeyConstraint(
            ["study_id"], ["study.id"], name=op.f("fk_external_result_study_id_study")
        ),
        sa.ForeignKeyConstraint(
            ["message_id"],
            ["message_log.id"],
            name=op.f("fk_external_result_message_id_message_log"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_external_result")),
        sa.UniqueConstraint(
            "message_id", "position", name=op.f("uq_external_result_message_id_position")
        ),
    )
    op.create_index(
        op.f("ix_external_result_study_id"), "external_result", ["study_id"], unique=False
    )
    # They follow their patient through merges, as orders and studies do.
    for table in ("visit", "appointment"):
        op.execute(
            f"CREATE TRIGGER file_under_survivor BEFORE INSERT OR UPDATE OF patient_id ON {table}"
            " FOR EACH ROW EXECUTE FUNCTION file_under_survivor()"
        )


def downgrade() -> None:
    for table in ("external_result", "appointment", "visit", "patient_link"):
        op.drop_table(table)
    op.drop_index("ix_scheduled_step_open", table_name="scheduled_step")
    op.create_index(
        "ix_scheduled_step_open",
        "scheduled_step",
        ["start_at"],
        postgresql_where=sa.text("status = 'SCHEDULED'"),
    )
    op.drop_index(op.f("ix_imaging_order_filler_number"), table_name="imaging_order")
    op.drop_constraint(
        "uq_imaging_order_procedure",
        "imaging_order",
        type_="unique",
    )
    op.create_unique_constraint(
        op.f("uq_imaging_order_placer_authority_placer_number"),
        "imaging_order",
        ["placer_authority", "placer_number"],
    )
    for name in ("replaced_by", "parent_id"):
        op.drop_column("imaging_order", name)
    op.drop_column("patient_identifier", "universal_type")
    op.drop_column("patient_identifier", "universal_id")
    for table in ("patient", "imaging_order"):
        op.drop_column(table, "details")
