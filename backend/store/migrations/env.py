"""What Alembic runs: the steps, on the connection that the store has opened."""

from __future__ import annotations

from alembic import context

from backend.store.records import Row

context.configure(connection=context.config.attributes["connection"], target_metadata=Row.metadata)
with context.begin_transaction():
    context.run_migrations()
