"""The durable truth of the service on disk: SQLite (WAL) by default, any SQLAlchemy address otherwise.

Every write is one transaction; several processes may use one store at once. Images and secrets are never stored.

    database   the connection, transactions
    schema     the tables
    records    what is handed out
    projects   projects and events
    labels     tasks, annotations, samples
    rankings   proposals and places in the queue
    runs       run records and leases
"""

from __future__ import annotations

from backend.store.labels import Labels
from backend.store.projects import Projects
from backend.store.rankings import Rankings
from backend.store.runs import Runs

__all__ = ["Store"]


class Store(Projects, Labels, Rankings, Runs):
    """The store at `url` (SQLAlchemy), made on first use. Safe to share between threads and processes.

    Raises `StoreError` where it cannot be opened or was made by another release.
    """
