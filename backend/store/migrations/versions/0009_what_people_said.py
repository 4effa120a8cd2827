"""What people ask for about accepted masks waits in the store; so is what they say of labels that a model doubts."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0009"
down_revision = "0008"
Whole = sql.BigInteger().with_variant(sql.Integer, "sqlite")


def upgrade() -> None:
    """Make the tables, and a column that the next look at an annotation fills."""
    op.create_table(
        "acceptance_requests",
        sql.Column("id", Whole, primary_key=True),
        sql.Column("project", Whole, nullable=False),
        sql.Column("action", sql.String(40), nullable=False),
        *(sql.Column(name, sql.Float, nullable=False) for name in ("iou", "risk", "confidence")),
        sql.Column("per_image", Whole, nullable=False),
        sql.Column("as_annotations", sql.Boolean, nullable=False),
        sql.Column("who", sql.Text, nullable=False),
        sql.Column("asked_at", sql.Float, nullable=False),
        sql.Column("state", sql.String(40), nullable=False),
        sql.Column("tries", Whole, nullable=False),
        sql.Column("outcome", sql.Text, nullable=False),
        sql.Column("needed", Whole, nullable=False),
        sql.Column("changed_at", sql.Float, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("acceptance_requests_project", "acceptance_requests", ["project", "id"])
    op.create_table(
        "right_labels",
        *(sql.Column(name, Whole, primary_key=True, autoincrement=False) for name in ("project", "annotation")),
        sql.Column("place", sql.String(400), primary_key=True),
        sql.Column("reason", sql.String(40), primary_key=True),
        sql.Column("content", sql.String(40), nullable=False),
        sql.Column("seen", sql.String(40), nullable=False),
        sql.Column("who", sql.Text, nullable=False),
        sql.Column("at", sql.Float, nullable=False),
    )
    op.add_column("annotations", sql.Column("content", sql.String(40), nullable=False, server_default=""))
