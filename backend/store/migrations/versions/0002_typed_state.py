"""What is decided gets columns of its own; until now it stood in the details of runs.

Samples are numbered by their place in an annotation: ids of regions are not unique. `cut-short` is `interrupted`. Whole
numbers have 64 bits on PostgreSQL too. Releases from before there were migrations refuse the store from here on.
"""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sql
from alembic import op

revision = "0002"
down_revision = "0001"
Whole = sql.BigInteger().with_variant(sql.Integer, "sqlite")


_GAIN = ("gain_value", "gain_low", "gain_high", "gain_objects", "gain_images")


def upgrade() -> None:
    """Make the tables, fill them from the runs' details, number the samples."""
    connection = op.get_bind()
    if connection.dialect.name == "postgresql":
        _widen(connection)
    gains, states, verdicts = _make_tables()
    runs = sql.table("runs", *map(sql.column, ("id", "project", "job", "state", "reason", "details", "finished_at")))
    connection.execute(runs.update().where(runs.c.state == "cut-short").values(state="interrupted"))
    found: dict[sql.TableClause, dict[Any, dict[str, Any]]] = {gains: {}, states: {}, verdicts: {}}
    for run in connection.execute(sql.select(runs).where(runs.c.state != "running").order_by(runs.c.id)).all():
        details = _details(run.details)
        for version, figures in _object(details.get("choice")).items():
            row = {"project": run.project, "version": version, "run": run.id, **_gain(_object(figures))}
            found[gains][run.project, version] = row
        for action, figures in _object(details.get("acting")).items():
            found[states][run.project, action] = _state(run, action, _object(figures))
        if run.job == "retrain" and (gate := _object(details.get("gate"))):
            found[verdicts][run.id] = _verdict(run, details, gate)
    for table, rows in found.items():
        if rows:
            connection.execute(table.insert(), list(rows.values()))
    _number_samples(connection)
    connection.execute(sql.text("DELETE FROM about"))
    connection.execute(sql.text("INSERT INTO about (name, value) VALUES ('schema', 'alembic')"))


def _make_tables() -> tuple[sql.Table, sql.Table, sql.Table]:
    gain: list[tuple[str, Any, bool]] = [
        ("value", sql.Float, True),
        ("low", sql.Float, True),
        ("high", sql.Float, True),
    ]
    gain += [("objects", Whole, False), ("images", Whole, False)]
    gains = op.create_table(
        "selection_gains",
        sql.Column("project", Whole, primary_key=True, autoincrement=False),
        sql.Column("version", sql.String(120), primary_key=True),
        sql.Column("run", Whole, nullable=False),
        *(sql.Column(name, kind, nullable=null) for name, kind, null in gain),
    )
    states = op.create_table(
        "refinement_states",
        sql.Column("project", Whole, primary_key=True, autoincrement=False),
        sql.Column("action", sql.String(40), primary_key=True),
        sql.Column("run", Whole, nullable=False),
        sql.Column("suspended", sql.Boolean, nullable=False),
        *(sql.Column(name, sql.Float, nullable=False) for name in ("budget", "share_of_cost")),
        sql.Column("threshold", sql.Float),
        *(sql.Column(name, Whole, nullable=False) for name in ("considered", "chosen", "acted", "kept")),
        *(sql.Column(name, sql.Float, nullable=False) for name in ("predicted_gain", "seconds")),
        *(sql.Column(f"gain_{name}", kind) for name, kind, _ in gain),
        *(sql.Column(name, sql.Float) for name in ("encode_s", "decode_s")),
        sql.Column("asked", sql.Text, nullable=False),
    )
    verdicts = op.create_table(
        "verdicts",
        sql.Column("run", Whole, primary_key=True, autoincrement=False),
        sql.Column("project", Whole, nullable=False, index=True),
        sql.Column("promote", sql.Boolean, nullable=False),
        sql.Column("method", sql.Text, nullable=False),
        *(sql.Column(name, Whole, nullable=False) for name in ("objects", "tasks")),
        *(sql.Column(name, sql.Float) for name in ("champion_error", "candidate_error", "share")),
        sql.Column("candidate", sql.String(120), nullable=False),
        sql.Column("judged_at", sql.Float, nullable=False),
    )
    return gains, states, verdicts


def _widen(connection: sql.Connection) -> None:
    inspector = sql.inspect(connection)
    for table in inspector.get_table_names():
        for column in inspector.get_columns(table):
            if isinstance(column["type"], sql.Integer):
                op.alter_column(table, column["name"], type_=sql.BigInteger())


def _number_samples(connection: sql.Connection) -> None:
    copied = (
        "project, annotation, checkpoint, region, updated_at, task, label, box_only, iou_token, mask_tokens, targets"
    )
    op.create_table(
        "numbered",
        sql.Column("project", Whole, primary_key=True, autoincrement=False),
        sql.Column("annotation", Whole, primary_key=True, autoincrement=False),
        sql.Column("number", Whole, primary_key=True, autoincrement=False),
        sql.Column("checkpoint", sql.String(200), primary_key=True),
        sql.Column("region", sql.Text, nullable=False),
        sql.Column("updated_at", sql.String(40), nullable=False),
        sql.Column("task", Whole, nullable=False),
        sql.Column("label", sql.Text, nullable=False),
        sql.Column("box_only", sql.Boolean, nullable=False),
        sql.Column("iou_token", sql.LargeBinary, nullable=False),
        sql.Column("mask_tokens", sql.LargeBinary, nullable=False),
        sql.Column("targets", sql.Text, nullable=False),
        sql.ForeignKeyConstraint(
            ["project", "annotation"], ["annotations.project", "annotations.id"], ondelete="CASCADE"
        ),
    )
    order = "ROW_NUMBER() OVER (PARTITION BY project, annotation, checkpoint ORDER BY region) - 1"
    connection.execute(sql.text(f"INSERT INTO numbered (number, {copied}) SELECT {order}, {copied} FROM samples"))  # noqa: S608
    op.drop_table("samples")
    op.rename_table("numbered", "samples")
    op.create_index("samples_task", "samples", ["project", "task"])


def _details(text: str) -> dict[str, Any]:
    try:
        return _object(json.loads(text))
    except ValueError:
        return {}


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _gain(figures: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    known = {f"{prefix}{name}": figures.get(name) for name in ("value", "low", "high")}
    return known | {f"{prefix}{name}": int(figures.get(name) or 0) for name in ("objects", "images")}


def _state(run: Any, action: str, figures: dict[str, Any]) -> dict[str, Any]:
    total, cost = _object(figures.get("total")), _object(figures.get("cost"))
    return {
        "project": run.project,
        "action": action,
        "run": run.id,
        "suspended": bool(figures.get("suspended")),
        **{name: float(figures.get(name) or 0.0) for name in ("budget", "share_of_cost")},
        "threshold": figures.get("threshold"),
        **{name: int(figures.get(name) or 0) for name in ("considered", "chosen")},
        **{name: int(total.get(name) or 0) for name in ("acted", "kept")},
        **{name: float(total.get(name) or 0.0) for name in ("predicted_gain", "seconds")},
        **(_gain(_object(figures["true_gain"]), "gain_") if figures.get("true_gain") else dict.fromkeys(_GAIN)),
        **{name: cost.get(name) for name in ("encode_s", "decode_s")},
        "asked": json.dumps(figures.get("asked")),
    }


def _verdict(run: Any, details: dict[str, Any], gate: dict[str, Any]) -> dict[str, Any]:
    return {
        "run": run.id,
        "project": run.project,
        "promote": bool(gate.get("promote")),
        "method": str(gate.get("method") or ""),
        **{name: int(gate.get(name) or 0) for name in ("objects", "tasks")},
        **{name: gate.get(name) for name in ("champion_error", "candidate_error", "share")},
        "candidate": str(details.get("version") or ""),
        "judged_at": run.finished_at or 0.0,
    }
