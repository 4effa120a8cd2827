"""The tables as the first releases made them, before there were migrations. Never changed again."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

revision = "0001"
down_revision = None
metadata = MetaData()

about = Table("about", metadata, Column("name", String(40), primary_key=True), Column("value", Text))

projects = Table(
    "projects",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("stamp", String(40), nullable=False),
    Column("cursor", String(40), nullable=False),
    Column("served", String(120), nullable=False),
    Column("synced_at", Float, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project", Integer, nullable=False),
    Column("action", String(60), nullable=False),
    Column("subjects", Text, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("handled", Boolean, nullable=False),
    Index("events_open", "handled", "project"),
    sqlite_autoincrement=True,
)

tasks = Table(
    "tasks",
    metadata,
    Column("project", Integer, primary_key=True, autoincrement=False),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("updated_at", String(40), nullable=False),
    Column("data", Text, nullable=False),
    Column("data_key", String(40), nullable=False),
    Column("annotations", Integer, nullable=False),
    Column("cancelled", Integer, nullable=False),
    Column("predictions", Integer, nullable=False),
    Column("labeled", Boolean, nullable=False),
    Column("checked", String(40), nullable=False),
)

annotation_map = Table(
    "annotations",
    metadata,
    Column("project", Integer, primary_key=True, autoincrement=False),
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("task", Integer, nullable=False),
    Column("updated_at", String(40), nullable=False),
    Column("cancelled", Boolean, nullable=False),
    Column("deleted", Boolean, nullable=False),
    Column("sampled_for", String(200), nullable=False),
    Column("used_in", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Index("annotations_task", "project", "task"),
)

samples = Table(
    "samples",
    metadata,
    Column("project", Integer, primary_key=True, autoincrement=False),
    Column("annotation", Integer, primary_key=True, autoincrement=False),
    Column("region", String(80), primary_key=True),
    Column("checkpoint", String(200), primary_key=True),
    Column("updated_at", String(40), nullable=False),
    Column("task", Integer, nullable=False),
    Column("label", String(200), nullable=False),
    Column("box_only", Boolean, nullable=False),
    Column("width", Integer, nullable=False),
    Column("iou_token", LargeBinary, nullable=False),
    Column("mask_tokens", LargeBinary, nullable=False),
    Column("targets", Text, nullable=False),
    ForeignKeyConstraint(["project", "annotation"], ["annotations.project", "annotations.id"], ondelete="CASCADE"),
    Index("samples_task", "project", "task"),
)

proposals = Table(
    "proposals",
    metadata,
    Column("project", Integer, primary_key=True, autoincrement=False),
    Column("task", Integer, primary_key=True, autoincrement=False),
    Column("key", String(64), nullable=False),
    Column("arrays", LargeBinary, nullable=False),
    Column("regions", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("made_at", Float, nullable=False),
)

scores = Table(
    "scores",
    metadata,
    Column("project", Integer, primary_key=True, autoincrement=False),
    Column("task", Integer, primary_key=True, autoincrement=False),
    Column("version", String(120), nullable=False),
    Column("acquisition", Float, nullable=False),
    Column("confidence", Float, nullable=False),
    Column("place", Integer, nullable=False),
    Column("is_audit", Boolean, nullable=False),
    Column("reason", Text, nullable=False),
    Index("scores_place", "project", "place"),
)

runs = Table(
    "runs",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("project", Integer, nullable=False),
    Column("job", String(40), nullable=False),
    Column("state", String(20), nullable=False),
    Column("fingerprint", String(64), nullable=False),
    Column("done", Integer, nullable=False),
    Column("total", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("details", Text, nullable=False),
    Column("started_at", Float, nullable=False),
    Column("changed_at", Float, nullable=False),
    Column("finished_at", Float),
    Index("runs_job", "project", "job", "id"),
    sqlite_autoincrement=True,
)

leases = Table(
    "leases",
    metadata,
    Column("name", String(80), primary_key=True),
    Column("holder", String(120), nullable=False),
    Column("until", Float, nullable=False),
)


def upgrade() -> None:
    """Make the tables that are not there."""
    metadata.create_all(op.get_bind())
