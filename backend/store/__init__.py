"""The durable truth of the service on disk: SQLite (WAL) by default, any SQLAlchemy address otherwise.

Every write is one transaction; several processes may use one store at once. Images and secrets are never stored.

    database   the connection, transactions
    migrations how a store of an earlier release becomes one of this
    records    the tables, and what is handed out of them
    projects   projects and events
    labels     tasks, annotations, samples
    rankings   proposals and places in the queue
    decisions  mask selection, refinements, the gate's verdicts
    overview   what screens show, counted by the database
    runs       run records and leases
    shards     parts of a ranking's work, and who is at which
    requests   what people asked for about accepted masks
    right_labels   labels that were doubted and are right
"""

from __future__ import annotations

from backend.store.decisions import Decisions
from backend.store.labels import Labels
from backend.store.overview import Overviews
from backend.store.projects import Projects
from backend.store.rankings import Rankings
from backend.store.requests import Requests
from backend.store.right_labels import RightLabels
from backend.store.runs import Runs
from backend.store.shards import Shards

__all__ = ["Store"]


class Store(Projects, Labels, Rankings, Decisions, Overviews, Runs, Shards, Requests, RightLabels):
    """The store at `url` (SQLAlchemy), made on first use. Safe to share between threads and processes.

    Brings a store of an earlier release to this one's tables. Raises `StoreError` where it cannot be opened, or is of a
    newer release.
    """
