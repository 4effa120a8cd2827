"""A ranking remembers which labels it shows on each task, so that the queue can be filtered by them."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0006"
down_revision = "0003"


def upgrade() -> None:
    """Add a column; the next ranking fills it."""
    op.add_column("scores", sql.Column("labels", sql.Text, nullable=False, server_default="[]"))
