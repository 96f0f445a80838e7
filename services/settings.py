"""Every setting, from ``SPINECHO_*`` variables and one optional ``spinecho.toml``."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from pydantic import Field, field_validator
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)


def default_home() -> Path:
    """Return where state lies when nobody said: root's home is closed to the database's user."""
    if os.geteuid() == 0:
        return Path("/var/lib/spinecho")
    return Path.home() / ".local" / "share" / "spinecho"


class Settings(BaseSettings):
    """Settings of one installation; a nested one is written with ``__``."""

    model_config = SettingsConfigDict(
        env_prefix="SPINECHO_",
        env_nested_delimiter="__",
        toml_file="spinecho.toml",
        extra="forbid",
        frozen=True,
    )

    home: Path = Field(default_factory=default_home, description="Directory of all state.")
    host: str = Field("127.0.0.1", description="Address that every listener binds to.")
    allow_cleartext: bool = Field(
        False, description="Serve unencrypted protocols off loopback; the network must be trusted."
    )
    hl7_port: int = Field(2575, description="MLLP listener.")
    dicom_port: int = Field(11112, description="DICOM listener.")
    http_port: int = Field(8080, description="Reading room, DICOMweb, FHIR and health.")
    http_hosts: tuple[str, ...] = Field(
        (), description="Further host names that HTTP is asked by, e.g. those of a reverse proxy."
    )
    prefect_port: int = Field(4200, description="Prefect server and UI.")
    ae_title: str = Field("SPINECHO", description="Our application entity title.", max_length=16)
    site: str = Field("main", description="Site tag of flow runs.")
    default_authority: str = Field(
        "HOSP", description="Assigning authority of identifiers that name none."
    )
    fhir_systems: dict[str, str] = Field(
        default_factory=dict,
        description="What HL7 and DICOM call the FHIR systems of this site: system URI → name.",
    )
    fhir_max_bytes: int = Field(
        5 * 1024 * 1024, ge=1024, description="Largest body of a FHIR request taken."
    )
    database_url: str | None = Field(
        None, description="A PostgreSQL of the hospital's own; empty for the embedded one."
    )
    key_dir: Path | None = Field(
        None, description="Directory of the message store's key file; below the home by default."
    )
    message_days: int = Field(
        365, ge=1, description="Days that stored messages are kept, rounded up to a whole month."
    )
    repeat_days: int = Field(
        90, ge=1, description="Days within which a message sent again is known for a repetition."
    )
    lane_failures: int = Field(
        3, ge=1, description="Messages in a row that fail before their lane counts as broken."
    )
    prefect_database_url: str | None = Field(
        None, description="Prefect's database on that cluster (postgresql+asyncpg://…)."
    )
    warm_path: Path | None = Field(None, description="Warm tier; below the home by default.")
    cold_url: str | None = Field(
        None, description="Cold tier, file://… or s3://…; below the home by default."
    )
    hot_days: int = Field(30, description="Days without access after which a study leaves hot.")
    warm_days: int = Field(730, description="Days without access after which it leaves warm.")
    quiet_s: float = Field(
        60, description="Seconds without an image after which an exam without MPPS is complete."
    )
    critical_ack_s: float = Field(
        900, description="Seconds until an unacknowledged critical result escalates."
    )
    reconcile_s: float = Field(60, description="Seconds between two sweeps for stuck work.")
    disk_floor_mb: int = Field(
        1024, description="Free megabytes below which storage answers out of resources."
    )
    peer_port: int = Field(
        104, description="DICOM port of a peer that is not registered, for commitment results."
    )
    max_associations: int = Field(50, description="DICOM associations served at once.")
    max_message_bytes: int = Field(16 * 1024 * 1024, description="Largest HL7 message taken.")
    profiles_dir: Path | None = Field(
        None, description="Interface profiles of sending systems; `profiles` below the home."
    )
    modalities: tuple[str, ...] = Field(
        ("MR",), description="What is examined here; an order for another modality is marked."
    )
    hl7_processing_id: Literal["P", "T", "D"] = Field(
        "P", description="MSH-11 of the messages taken; a message for another is refused."
    )
    hl7_sequence_numbers: bool = Field(
        False, description="Check the numbers (MSH-13) of senders that number their messages."
    )
    hl7_connections: int = Field(64, ge=1, description="MLLP connections served at once.")
    hl7_tls_certificate: Path | None = Field(
        None, description="Certificate (PEM) of our MLLP, which then speaks TLS only."
    )
    hl7_tls_key: Path | None = Field(
        None, description="Its private key (PEM), where it is in a file of its own."
    )
    hl7_tls_client_ca: Path | None = Field(
        None, description="Authority (PEM) that MLLP clients must have a certificate of."
    )
    hl7_tls_ca: Path | None = Field(
        None, description="Authority (PEM) of mllps:// destinations; the system's by default."
    )
    destinations: dict[str, str] = Field(
        default_factory=dict, description="Where reports go: name → mllp://host:port, or mllps://."
    )
    order_reply: Literal["ack", "order"] = Field(
        "ack", description="What answers an order: `ack` alone, or `order` for ORR, ORG and ORI."
    )
    status_destination: str | None = Field(
        None,
        description="Where placers are told of their orders' status: mllp://host:port, or mllps://.",
    )
    status_message: Literal["ORM^O01", "OMG^O19"] = Field(
        "ORM^O01", description="How they are told: `ORM^O01` in v2.3.1 or `OMG^O19` in v2.5.1."
    )
    desk_approvals: int = Field(
        1, description="People who have to agree on a decision of the desk: 1 or 2.", ge=1, le=2
    )
    match_auto: float = Field(
        16, description="Score from which two records may be one person without being asked."
    )
    match_desk: float = Field(
        0, description="Score from which two records are shown as perhaps one person."
    )
    triage_model: str = Field("asymmetry@1.0.0", description="Triage model, name@version.")
    triage_timeout_s: float = Field(60, description="Seconds until a triage run abstains.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file."""
        return (init_settings, env_settings, TomlConfigSettingsSource(settings_cls))

    @field_validator(
        "home",
        "key_dir",
        "warm_path",
        "profiles_dir",
        "hl7_tls_certificate",
        "hl7_tls_key",
        "hl7_tls_client_ca",
        "hl7_tls_ca",
    )
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else value.expanduser().absolute()

    @property
    def is_loopback(self) -> bool:
        """Whether listeners are reachable from this machine only."""
        return self.host in {"127.0.0.1", "::1", "localhost"}

    @property
    def run_dir(self) -> Path:
        """Directory of sockets and locks; the path of a Unix socket is limited."""
        inside = self.home / "run"
        if len(str(inside)) <= 70:
            return inside
        return Path("/tmp") / f"spinecho-{sha256(str(self.home).encode()).hexdigest()[:16]}"  # noqa: S108 (its own user's)

    @property
    def socket_dir(self) -> Path:
        """Directory of the embedded database's socket."""
        return self.run_dir / "pg"

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of Spinecho's own database."""
        if self.database_url:
            return self.database_url.replace("postgresql://", "postgresql+psycopg://", 1)
        return f"postgresql+psycopg://postgres@/spinecho?host={quote(str(self.socket_dir))}"

    @property
    def prefect_store_url(self) -> str:
        """SQLAlchemy URL of Prefect's database."""
        if self.prefect_database_url:
            return self.prefect_database_url
        return f"postgresql+asyncpg://postgres@/prefect?host={quote(str(self.socket_dir))}"

    @property
    def http_url(self) -> str:
        """Base URL of the HTTP application."""
        return f"http://{self.host}:{self.http_port}"

    @property
    def prefect_url(self) -> str:
        """Base URL of Prefect's server, which is on loopback whatever `host` is."""
        return f"http://127.0.0.1:{self.prefect_port}"

    @property
    def profile_root(self) -> Path:
        """Directory of the installation's own interface profiles."""
        return self.profiles_dir or self.home / "profiles"

    @property
    def last_good_profiles(self) -> Path:
        """File of the interface profiles as they were when all of them were right."""
        return self.home / "profiles.last-good.json"

    @property
    def key_root(self) -> Path:
        """Directory of the key file."""
        return self.key_dir or self.home / "keys"

    @property
    def hot_root(self) -> Path:
        """Root of the hot tier."""
        return self.home / "archive" / "hot"

    @property
    def warm_root(self) -> Path:
        """Root of the warm tier."""
        return self.warm_path or self.home / "archive" / "warm"

    @property
    def cold_root(self) -> str:
        """URL of the cold tier."""
        return self.cold_url or (self.home / "archive" / "cold").as_uri()
