"""One pool is scored by many workers, a shard each; what screens ask of proposals is found without reading them."""

from __future__ import annotations

import sqlalchemy as sql
from alembic import op

revision = "0008"
down_revision = "0006"
Whole = sql.BigInteger().with_variant(sql.Integer, "sqlite")


def upgrade() -> None:
    """Make the shards' table, and two indexes of proposals."""
    op.create_table(
        "shards",
        *(sql.Column(name, Whole, primary_key=True, autoincrement=False) for name in ("project", "run", "number")),
        sql.Column("key", sql.String(64), nullable=False),
        sql.Column("tasks", sql.Text, nullable=False),
        sql.Column("holder", sql.String(120), nullable=False),
        sql.Column("until", sql.Float, nullable=False),
        sql.Column("done", Whole, nullable=False),
        sql.Column("tries", Whole, nullable=False),
        sql.Column("finished", sql.Boolean, nullable=False),
    )
    op.create_index("proposals_key", "proposals", ["project", "task", "key"])
    failed = sql.text("reason <> ''")
    op.create_index("proposals_failed", "proposals", ["project", "task"], sqlite_where=failed, postgresql_where=failed)
