"""Masks of proposals are kept as masks, what a project is about is learnt from its labels, and the work that masks left
to people is counted.

A project that was disconnected is not looked after any more, and what is known of it stays; each counts as connected.
Proposals are made again: those of earlier releases hold regions of Label Studio, and only those that were shown.
"""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0003"
down_revision = "0002"
WORK = ("kept", "deleted", "relabelled", "corrected", "added")
Whole = sql.BigInteger().with_variant(sql.Integer, "sqlite")


def upgrade() -> None:
    """Make the proposals' table anew, tables of examples and of work, and a column for a project's labels."""
    op.drop_table("proposals")
    op.create_table(
        "proposals",
        sql.Column("project", Whole, primary_key=True, autoincrement=False),
        sql.Column("task", Whole, primary_key=True, autoincrement=False),
        sql.Column("key", sql.String(64), nullable=False),
        sql.Column("arrays", sql.LargeBinary, nullable=False),
        sql.Column("drawings", sql.Text, nullable=False),
        sql.Column("reason", sql.Text, nullable=False),
        sql.Column("made_at", sql.Float, nullable=False),
    )
    op.create_table(
        "examples",
        sql.Column("project", Whole, primary_key=True, autoincrement=False),
        sql.Column("annotation", Whole, primary_key=True, autoincrement=False),
        sql.Column("task", Whole, nullable=False),
        sql.Column("updated_at", sql.String(40), nullable=False),
        sql.Column("features_version", sql.String(200), nullable=False),
        sql.Column("arrays", sql.LargeBinary, nullable=False),
        sql.ForeignKeyConstraint(
            ["project", "annotation"], ["annotations.project", "annotations.id"], ondelete="CASCADE"
        ),
    )
    op.create_table(
        "work",
        sql.Column("project", Whole, primary_key=True, autoincrement=False),
        sql.Column("annotation", Whole, primary_key=True, autoincrement=False),
        sql.Column("task", Whole, nullable=False),
        sql.Column("version", sql.String(120), nullable=False),
        *(sql.Column(name, Whole, nullable=False) for name in WORK),
        sql.Column("lead_s", sql.Float),
        sql.Column("at", sql.Float, nullable=False),
        sql.Column("annotator", Whole, nullable=False),
        sql.Column("control", sql.Boolean, nullable=False),
        sql.ForeignKeyConstraint(
            ["project", "annotation"], ["annotations.project", "annotations.id"], ondelete="CASCADE"
        ),
    )
    op.add_column("scores", sql.Column("shown", sql.Text, nullable=False, server_default="[]"))
    op.add_column("projects", sql.Column("classes", sql.Text, nullable=False, server_default="[]"))
    op.add_column("projects", sql.Column("connected", sql.Boolean, nullable=False, server_default=sql.true()))
