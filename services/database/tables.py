"""Every table, with the reason for each constraint that another part relies on.

Times are ``timestamptz`` in UTC. Text columns that hold an enum hold its value.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _time(name: str, *, required: bool = False) -> Column[datetime]:
    return Column(name, DateTime(timezone=True), nullable=not required)


def _text(name: str) -> Column[str]:
    return Column(name, Text, nullable=False, server_default="")


def _attributes() -> Column[object]:
    # What the objects themselves say at this level, as DICOM JSON (PS3.18 F.2): QIDO answers
    # from here and never opens a file.
    return Column("attributes", JSONB, nullable=False, server_default="{}")


def _details() -> Column[object]:
    # What is told to others and asked for by nobody: one value, and no column for each.
    return Column("details", JSONB, nullable=False, server_default="{}")


patient = Table(
    "patient",
    metadata,
    Column("id", Text, primary_key=True),
    *(_text(n) for n in ("family", "given", "middle", "prefix", "suffix")),
    Column("birth_date", Date),
    _text("sex"),
    _details(),
    Column("merged_into", Text, ForeignKey("patient.id")),
    _time("updated_at", required=True),
    Index("ix_patient_birth_date", "birth_date"),
    Index("ix_patient_updated_at", "updated_at", "id"),
)

patient_identifier = Table(
    "patient_identifier",
    metadata,
    # One number of one authority is one patient: the key is what makes that true.
    Column("authority", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("type", Text, nullable=False),
    Column("patient_id", Text, ForeignKey("patient.id"), nullable=False, index=True),
    Column("position", SmallInteger, nullable=False, server_default="0"),
    _text("universal_id"),
    _text("universal_type"),
    # The re-key that put another identifier in its place: objects may still come under it.
    Column("retired_by", BigInteger, ForeignKey("patient_change.id")),
    # A number is looked for without its authority, too.
    Index("ix_patient_identifier_value", "value"),
)

# A merge, move or re-key, and its undoing.
patient_change = Table(
    "patient_change",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("survivor_id", Text, ForeignKey("patient.id"), nullable=False, index=True),
    Column("retired_id", Text, ForeignKey("patient.id"), nullable=False, index=True),
    Column("before", JSONB, nullable=False, server_default="{}"),
    Column("after", JSONB, nullable=False, server_default="{}"),
    Column("by", Text, nullable=False),
    Column("why", Text, nullable=False),
    # Not a foreign key: the message goes when its month is over.
    Column("message_id", BigInteger),
    _time("at", required=True),
    _time("undone_at"),
    _text("undone_by"),
    _text("undone_why"),
)

patient_change_item = Table(
    "patient_change_item",
    metadata,
    Column("change_id", BigInteger, ForeignKey("patient_change.id"), primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("home_id", Text, ForeignKey("patient.id"), nullable=False),
)

# The record that a row was filed under, where another has it since a merge. A trigger keeps this
# true whoever writes the row: `patient_id` is always the last survivor of the home.
patient_home = Table(
    "patient_home",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("home_id", Text, ForeignKey("patient.id"), nullable=False, index=True),
)

# Two records that may be one person (ADT^A24): told to people, neither record is retired.
patient_link = Table(
    "patient_link",
    metadata,
    Column("patient_id", Text, ForeignKey("patient.id"), primary_key=True),
    Column("other_id", Text, ForeignKey("patient.id"), primary_key=True),
    _time("at", required=True),
)

visit = Table(
    "visit",
    metadata,
    Column("id", Text, primary_key=True),
    Column("patient_id", Text, ForeignKey("patient.id"), nullable=False),
    Column("number", Text, nullable=False, server_default="", index=True),
    _text("authority"),
    _text("account"),
    Column("state", Text, nullable=False),
    *(_text(n) for n in ("patient_class", "location", "referring", "reason")),
    _time("admitted_at"),
    _time("discharged_at"),
    _time("updated_at", required=True),
    # A sender that numbers no visits has one for each patient.
    UniqueConstraint("patient_id", "authority", "number"),
)

# What a record has ever said of its person, as it is compared: a changed surname still matches.
patient_trait = Table(
    "patient_trait",
    metadata,
    Column("patient_id", Text, ForeignKey("patient.id"), primary_key=True),
    # Of the name, birth date and sex; the same again is the same row.
    Column("digest", Text, primary_key=True),
    *(_text(n) for n in ("family", "given", "middle", "tag", "sex")),
    Column("newborn", Boolean, nullable=False, server_default=text("false")),
    Column("unknown", Boolean, nullable=False, server_default=text("false")),
    Column("birth_date", Date),
    _time("since", required=True),
    # Names are looked for by how they begin.
    *(
        Index(f"ix_patient_trait_{name}", name, postgresql_ops={name: "text_pattern_ops"})
        for name in ("family", "given", "middle")
    ),
)

# Where to look for a person: each key is shared by few records, and errors rarely spoil them all.
patient_key = Table(
    "patient_key",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("patient_id", Text, ForeignKey("patient.id"), primary_key=True),
    Index("ix_patient_key_patient_id", "patient_id"),
)

ACCESSION_CORE = r"ltrim(regexp_replace(accession, '\D'::text, ''::text, 'g'::text), '0'::text)"

accession_number = Sequence("accession_number", metadata=metadata)

imaging_order = Table(
    "imaging_order",
    metadata,
    Column("id", Text, primary_key=True),
    Column("patient_id", Text, ForeignKey("patient.id"), nullable=False, index=True),
    Column("placer_number", Text, nullable=False, index=True),
    _text("placer_authority"),
    Column("filler_number", Text, nullable=False, server_default="", index=True),
    Column("accession", Text, nullable=False, unique=True),
    Column("study_uid", Text, nullable=False, unique=True),
    Column("requested_procedure_id", Text, nullable=False),
    _text("procedure_code"),
    _text("procedure_meaning"),
    _text("procedure_scheme"),
    Column("priority", SmallInteger, nullable=False),
    *(
        _text(n)
        for n in (
            "reason",
            "referring",
            "requesting",
            "patient_class",
            "location",
            "admission_id",
            "transport",
            "confidentiality",
            "medical_alerts",
            "allergies",
        )
    ),
    Column("pregnancy_status", SmallInteger),
    Column("weight_kg", Float),
    Column("height_m", Float),
    _text("sender"),
    Column("status", Text, nullable=False),
    _time("placed_at", required=True),
    _details(),
    Column("replaced_by", Text, ForeignKey("imaging_order.id")),
    Column("parent_id", Text, ForeignKey("imaging_order.id")),
    # The same placer number is the same order, however often it is sent; where it asks for
    # several procedures, each of them is a row.
    UniqueConstraint(
        *("placer_authority", "placer_number", "requested_procedure_id"),
        name="uq_imaging_order_procedure",
    ),
    # Its digits: consoles lose leading zeros and a site's letters.
    Index("ix_imaging_order_accession_core", text(ACCESSION_CORE)),
)

scheduled_step = Table(
    "scheduled_step",
    metadata,
    Column("order_id", Text, ForeignKey("imaging_order.id"), primary_key=True),
    Column("sps_id", Text, primary_key=True),
    _time("start_at", required=True),
    *(
        _text(n)
        for n in (
            "modality",
            "station_aet",
            "station_name",
            "location",
            "description",
            "performing",
            "protocol_code",
            "protocol_meaning",
            "protocol_scheme",
        )
    ),
    Column("status", Text, nullable=False),
    Index(
        "ix_scheduled_step_open",
        "start_at",
        postgresql_where=text("status IN ('SCHEDULED', 'ARRIVED')"),
    ),
    # What a station was to do at some time, whatever became of it.
    Index("ix_scheduled_step_station", "station_aet", "start_at"),
)

# A booked slot. It may come before its order, and waits for it.
appointment = Table(
    "appointment",
    metadata,
    Column("id", Text, primary_key=True),
    # SCH-2 with its issuer, else SCH-1: what every later message about the slot repeats.
    Column("key", Text, nullable=False, unique=True),
    Column("state", Text, nullable=False),
    _time("start_at"),
    Column("order_id", Text, ForeignKey("imaging_order.id"), index=True),
    Column("sps_id", Text),
    Column("patient_id", Text, ForeignKey("patient.id")),
    *(_text(n) for n in ("order_placer", "order_filler", "location", "station", "sender")),
    # Not a foreign key: the message goes when its month is over.
    Column("message_id", BigInteger),
    _time("updated_at", required=True),
    Index("ix_appointment_unjoined", "order_placer", postgresql_where=text("order_id IS NULL")),
)

study = Table(
    "study",
    metadata,
    Column("id", Text, primary_key=True),
    Column("study_uid", Text, nullable=False, unique=True),
    Column("order_id", Text, ForeignKey("imaging_order.id"), unique=True),
    Column("patient_id", Text, ForeignKey("patient.id"), index=True),
    Column("accession", Text, nullable=False, server_default="", index=True),
    Column("state", Text, nullable=False),
    Column("priority", SmallInteger, nullable=False),
    _text("description"),
    Column("version", Integer, nullable=False, server_default="0"),
    Column("tier", Text, nullable=False, server_default="hot"),
    # What the objects themselves say of the patient, shown while no order or patient is linked.
    _text("dicom_patient_name"),
    _text("dicom_patient_id"),
    _time("created_at", required=True),
    _time("started_at"),
    _time("ended_at"),
    _time("acquired_at"),
    _time("critical_at"),
    _time("last_read_at"),
    # When anything that others are told of it last changed; a trigger sets it.
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=text("now()")),
    Column("triage", Text),
    _text("triage_text"),
    Column("legal_hold", Boolean, nullable=False, server_default=text("false")),
    Column("completeness", Text),
    # How many instances from others the last verdict covered: more than these reopen it.
    Column("judged", Integer, nullable=False, server_default="0"),
    _attributes(),
    # Both are keys that a page of a search can go on from.
    Index("ix_study_updated_at", "updated_at", "id"),
    Index("ix_study_started", text("coalesce(started_at, created_at)"), "id"),
    # The reading list: what is readable and unread, in the order in which it is read.
    Index(
        "ix_study_reading",
        "priority",
        "acquired_at",
        postgresql_where=text("state IN ('acquiring','acquired','discontinued','preliminary')"),
    ),
)

series = Table(
    "series",
    metadata,
    Column("series_uid", Text, primary_key=True),
    Column("study_id", Text, ForeignKey("study.id"), nullable=False, index=True),
    _text("modality"),
    _text("description"),
    Column("number", Integer),
    _attributes(),
)

instance = Table(
    "instance",
    metadata,
    Column("sop_uid", Text, primary_key=True),
    Column("series_uid", Text, ForeignKey("series.series_uid"), nullable=False, index=True),
    Column("study_id", Text, ForeignKey("study.id"), nullable=False, index=True),
    Column("sop_class", Text, nullable=False),
    Column("transfer_syntax", Text, nullable=False),
    Column("number", Integer),
    Column("frames", Integer, nullable=False, server_default="1"),
    Column("tier", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("digest", Text, nullable=False),
    _text("source_ae"),
    _time("received_at", required=True),
    # When the desk gave it study and series UIDs that its file does not say.
    _time("apart_at"),
    _attributes(),
)

# Files that could not be filed where they asked to be. Their senders were told that they are
# stored, so commitment and repeated sending must find them.
quarantine = Table(
    "quarantine",
    metadata,
    Column("sop_uid", Text, primary_key=True),
    Column("digest", Text, primary_key=True),
    _text("sop_class"),
    _text("study_uid"),
    # The row of the desk that explains it.
    Column("kind", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("path", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    _text("source_ae"),
    _time("received_at", required=True),
)

mpps = Table(
    "mpps",
    metadata,
    Column("sop_uid", Text, primary_key=True),
    Column("study_id", Text, ForeignKey("study.id"), nullable=False, index=True),
    Column("state", Text, nullable=False),
    _text("station_aet"),
    Column("attributes", JSONB, nullable=False),
    Column("sps_ids", JSONB, nullable=False),
    # SOP Instance UIDs that the final N-SET says were made; empty until then.
    Column("referenced", JSONB, nullable=False, server_default="[]"),
    _time("created_at", required=True),
    _time("ended_at"),
)

commitment = Table(
    "commitment",
    metadata,
    Column("transaction_uid", Text, primary_key=True),
    Column("requestor", Text, nullable=False),
    # Where it called from: the result may have to be brought there.
    _text("host"),
    Column("referenced", JSONB, nullable=False),
    Column("failed", JSONB, nullable=False),
    _time("requested_at", required=True),
    _time("answered_at"),
)

message_number = Sequence("message_number", metadata=metadata)

message_log = Table(
    "message_log",
    metadata,
    # Given before the row is written: what a message changes refers to it.
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    # Each month is a part of its own, which is dropped whole when its time is over.
    Column("received_at", DateTime(timezone=True), primary_key=True),
    Column("direction", Text, nullable=False),
    Column("protocol", Text, nullable=False),
    Column("peer", Text, nullable=False),
    _text("sender"),
    _text("control_id"),
    _text("type"),
    Column("state", Text, nullable=False),
    # What raw and ack were sealed with; NULL marks a row from before messages were sealed.
    Column("key_id", Text),
    Column("raw", LargeBinary, nullable=False),
    Column("ack", LargeBinary),
    Column("ack_code", Text),
    Column("error", Text),
    # The interface profile that read it, with the digest of its version.
    Column("profile", Text),
    Column("study_id", Text),
    Column("attempt_of", BigInteger),
    # Keyed hashes of the patient's and the order's numbers.
    Column("blind_index", ARRAY(LargeBinary), nullable=False, server_default="{}"),
    Index("ix_message_log_control_id", "control_id"),
    Index("ix_message_log_study_id", "study_id", postgresql_where=text("study_id IS NOT NULL")),
    Index(
        "ix_message_log_attempt_of", "attempt_of", postgresql_where=text("attempt_of IS NOT NULL")
    ),
    Index("ix_message_log_received_at", "received_at", postgresql_using="brin"),
    Index(
        "ix_message_log_blind_index",
        "blind_index",
        postgresql_using="gin",
        # Collected entries would be written out in the middle of some message, for 30 ms.
        postgresql_with={"fastupdate": "off"},
    ),
    Index(
        "ix_message_log_bad",
        "id",
        postgresql_where=text("state IN ('refused', 'failed', 'fragment', 'rejected')"),
    ),
    postgresql_partition_by="RANGE (received_at)",
)

message_key = Table(
    "message_key",
    metadata,
    # The same bytes are one message: its first answer is repeated. Not in the log, where a unique
    # index would have to contain the time.
    Column("digest", LargeBinary, primary_key=True),
    Column("message_id", BigInteger, nullable=False),
    _time("received_at", required=True),
    Index("ix_message_key_received_at", "received_at", postgresql_using="brin"),
)

lane = Table(
    "lane",
    metadata,
    # ``in`` with a sender (MSH-3|MSH-4), or ``out`` with a destination.
    Column("direction", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("broken", Boolean, nullable=False),
    _time("since", required=True),
    Column("failures", Integer, nullable=False, server_default="0"),
)

hl7_sequence = Table(
    "hl7_sequence",
    metadata,
    # MSH-3 and MSH-4, the one who numbers its messages in MSH-13.
    Column("sender", Text, primary_key=True),
    # Null after a resynchronisation: the next number is taken, whatever it is.
    Column("last", BigInteger),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("topic", Text, nullable=False),
    Column("flow", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("queue", Text, nullable=False),
    Column("attempt", Integer, nullable=False, server_default="1"),
    _time("created_at", required=True),
    _time("dispatched_at"),
    _time("started_at"),
    _time("done_at"),
    Column("run_id", Text),
    Column("error", Text),
    # One stage runs once per version of its subject.
    UniqueConstraint("subject", "flow", "version"),
    Index("ix_outbox_pending", "id", postgresql_where=text("dispatched_at IS NULL")),
    Index(
        "ix_outbox_open",
        "dispatched_at",
        postgresql_where=text("dispatched_at IS NOT NULL AND done_at IS NULL"),
    ),
)

timeline = Table(
    "timeline",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("study_id", Text, ForeignKey("study.id"), nullable=False, index=True),
    _time("at", required=True),
    Column("kind", Text, nullable=False),
    Column("summary", Text, nullable=False),
    _text("actor"),
    Column("evidence", JSONB, nullable=False, server_default="{}"),
)

finding = Table(
    "finding",
    metadata,
    Column("study_id", Text, ForeignKey("study.id"), primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("outcome", Text, nullable=False),
    Column("score", Float),
    _text("text"),
    _text("reason"),
    Column("measurements", JSONB, nullable=False, server_default="[]"),
    Column("sr_sop_uid", Text),
    _time("at", required=True),
)

report = Table(
    "report",
    metadata,
    Column("id", Text, primary_key=True),
    Column("study_id", Text, ForeignKey("study.id"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("status", Text, nullable=False),
    Column("findings", Text, nullable=False),
    Column("impression", Text, nullable=False),
    Column("author", Text, nullable=False),
    _time("signed_at", required=True),
    UniqueConstraint("study_id", "version"),
)

# What another system reported. Its text stays in the message that brought it.
external_result = Table(
    "external_result",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("study_id", Text, ForeignKey("study.id"), index=True),
    *(
        _text(n)
        for n in (
            *("study_uid", "accession", "placer_number", "filler_number"),
            *("sender", "status", "procedure", "author"),
        )
    ),
    Column("critical", Boolean, nullable=False, server_default=text("false")),
    _time("observed_at"),
    # Not a foreign key: the message goes when its month is over.
    Column("message_id", BigInteger, nullable=False),
    Column("position", SmallInteger, nullable=False),
    _time("received_at", required=True),
    UniqueConstraint("message_id", "position"),
)

delivery = Table(
    "delivery",
    metadata,
    Column("report_id", Text, ForeignKey("report.id"), primary_key=True),
    Column("destination", Text, primary_key=True),
    Column("control_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # Not a foreign key: the message goes when its month is over.
    Column("message_id", BigInteger),
    Column("ack_code", Text),
    Column("error", Text),
    _time("sent_at"),
    _time("accepted_at"),
    Index("ix_delivery_destination_sent_at", "destination", "sent_at"),
)

# What the placer of an order is told: one row a change of status, in the order of the changes.
status_notice = Table(
    "status_notice",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("study_id", Text, ForeignKey("study.id"), nullable=False),
    # The study's own count of changes.
    Column("sequence", Integer, nullable=False),
    Column("order_status", Text, nullable=False),
    Column("result_status", Text, nullable=False),
    Column("words", Text, nullable=False),
    # When the exam was to be done as of this change.
    _time("start_at"),
    _time("at", required=True),
    Column("state", Text, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("control_id", Text),
    # Not a foreign key: the message goes when its month is over.
    Column("message_id", BigInteger),
    Column("ack_code", Text),
    Column("error", Text),
    _time("sent_at"),
    _time("answered_at"),
    # A change is told once.
    UniqueConstraint("study_id", "sequence"),
    Index("ix_status_notice_due", "id", postgresql_where=text("state = 'due'")),
)

critical_result = Table(
    "critical_result",
    metadata,
    Column("study_id", Text, ForeignKey("study.id"), primary_key=True),
    _time("found_at", required=True),
    Column("escalations", Integer, nullable=False, server_default="0"),
    _time("notified_at"),
    _time("acknowledged_at"),
    Column("acknowledged_by", Text),
)

desk = Table(
    "desk",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("kind", Text, nullable=False),
    Column("study_id", Text, ForeignKey("study.id"), index=True),
    Column("subject", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("evidence", JSONB, nullable=False, server_default="{}"),
    # Where the payload was kept, relative to the archive's quarantine.
    Column("path", Text),
    _time("at", required=True),
    _time("resolved_at"),
    Column("resolved_by", Text),
    # The same trouble with the same thing is one row, however often it is met.
    UniqueConstraint("kind", "subject"),
    Index("ix_desk_open", "at", "id", postgresql_where=text("resolved_at IS NULL")),
)

# What somebody decided about a row of the desk. With two-person approval, it waits for another.
desk_decision = Table(
    "desk_decision",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("desk_id", BigInteger, ForeignKey("desk.id"), nullable=False, index=True),
    Column("action", Text, nullable=False),
    Column("chosen_id", Text, ForeignKey("patient.id")),
    Column("before_id", Text, ForeignKey("patient.id")),
    Column("order_id", Text, ForeignKey("imaging_order.id")),
    # What else was there before, for an undoing to put back.
    Column("before", JSONB, nullable=False, server_default="{}"),
    Column("by", Text, nullable=False),
    Column("why", Text, nullable=False),
    _time("at", required=True),
    _text("approved_by"),
    _time("done_at"),
    _time("undone_at"),
    _text("undone_by"),
    _text("undone_why"),
    # One decision at a time stands or waits.
    Index(
        "uq_desk_decision_standing",
        "desk_id",
        unique=True,
        postgresql_where=text("undone_at IS NULL"),
    ),
)

migration = Table(
    "migration",
    metadata,
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("study_id", Text, ForeignKey("study.id"), nullable=False),
    Column("source", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("state", Text, nullable=False),
    _time("planned_at", required=True),
    _time("done_at"),
    # One migration at a time moves a study.
    Index(
        "uq_migration_open",
        "study_id",
        unique=True,
        postgresql_where=text("state <> 'done'"),
    ),
)

kpi = Table(
    "kpi",
    metadata,
    Column("day", Date, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Float, nullable=False),
    Column("count", Integer, nullable=False),
)

ae_peer = Table(
    "ae_peer",
    metadata,
    Column("ae_title", Text, primary_key=True),
    Column("host", Text, nullable=False),
    Column("port", Integer, nullable=False),
    _time("seen_at", required=True),
)

# What came or is shown as a resource, by the id under which it is served.
fhir_resource = Table(
    "fhir_resource",
    metadata,
    Column("kind", Text, primary_key=True),
    Column("id", Text, primary_key=True),
    # Counts what was shown: another digest of what is shown is another version.
    Column("version", Integer, nullable=False, server_default="0"),
    Column("shown", LargeBinary),
    _time("updated_at", required=True),
    # As it came, with its references resolved; NULL where we made all of it.
    Column("content", Text),
    _text("release"),
    # SHA-256 of the content: the same again is the same resource.
    Column("digest", LargeBinary),
    # "system|value" of each identifier.
    Column("identifiers", ARRAY(Text), nullable=False, server_default="{}"),
    Index("ix_fhir_resource_digest", "kind", "digest"),
    Index("ix_fhir_resource_identifiers", "identifiers", postgresql_using="gin"),
)
