"""The request log, its late labels, the audit, and what all routers share."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

_ROWS = """
create table crossfade_rows (
    id bigint generated always as identity primary key,
    writer uuid not null,
    seq bigint not null,
    xid xid8 not null default pg_current_xact_id(),
    ts_utc timestamptz not null,
    request_id text not null,
    user_id text not null,
    experiment_id text not null,
    variant text not null,
    alias text not null,
    model text not null,
    model_version text not null,
    ab_split_b double precision not null,
    features_json text not null,
    label text not null,
    prediction text not null,
    probability double precision,
    latency_ms double precision not null,
    status smallint not null,
    unique (writer, seq)
)
"""

_LABELS = """
create table crossfade_labels (
    id bigint generated always as identity primary key,
    writer uuid not null,
    seq bigint not null,
    xid xid8 not null default pg_current_xact_id(),
    ts_utc timestamptz not null,
    request_id text not null,
    label text not null,
    unique (writer, seq)
)
"""

_AUDIT = """
create table crossfade_audit (
    id bigint generated always as identity primary key,
    ts_utc timestamptz not null,
    event json not null
)
"""

_CONFIG = """
create table crossfade_config (
    only_one boolean primary key default true check (only_one),
    ab_split_b double precision check (ab_split_b between 0 and 1),
    changed_at timestamptz not null default clock_timestamp(),
    reloads bigint not null default 0
)
"""


def upgrade() -> None:
    """Make the tables.

    `(writer, seq)` stores a row once that is sent again after its connection was lost. By `xid` a reader that follows
    the tail sees no gap: rows whose xid is below `pg_snapshot_xmin(pg_current_snapshot())` are all there. A split of
    null is AB_SPLIT_B; `reloads` counts how often routers were told that an alias moved. An event is `json`, which is
    given back as it was written, to the last digit and in its order. Of the rows only those of an experiment are
    indexed by anything but their id: its evaluation then reads no others.
    """
    for table in (_ROWS, _LABELS, _AUDIT, _CONFIG):
        op.execute(table)
    op.execute("create index crossfade_labels_of_request on crossfade_labels (request_id, id)")
    op.execute(
        "create index crossfade_rows_of_experiment on crossfade_rows (experiment_id, id) where experiment_id <> ''"
    )
