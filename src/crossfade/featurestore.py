"""The feature store: labelled rows from elsewhere, each stored exactly once. Serving writes it, retraining reads it.

A row is known by model, batch id and position within the batch, so whoever is not sure that a batch arrived sends it
again. SQLite on one machine, PostgreSQL for several.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from crossfade.database import Database
from crossfade.errors import BatchConflict
from crossfade.ingested import Added, Batch, FeatureRow, StoreStats
from crossfade.requestlog import utc_now

if TYPE_CHECKING:
    import pandas as pd

_NEWEST_BATCHES = 10

_metadata = sa.MetaData()
_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # SQLite counts up only what it calls an integer

_rows = sa.Table(
    "ingested_rows",
    _metadata,
    sa.Column("id", _id, primary_key=True, autoincrement=True),
    sa.Column("model", sa.String(256), nullable=False),
    sa.Column("batch_id", sa.String(256), nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("ts_utc", sa.String(32), nullable=False),
    sa.Column("features_json", sa.Text, nullable=False),
    sa.Column("label", sa.String(256), nullable=False),
    sa.UniqueConstraint("model", "batch_id", "position"),
)
_batches = sa.Table(
    "ingested_batches",
    _metadata,
    sa.Column("id", _id, primary_key=True, autoincrement=True),
    sa.Column("model", sa.String(256), nullable=False),
    sa.Column("batch_id", sa.String(256), nullable=False),
    sa.Column("ts_utc", sa.String(32), nullable=False),
    sa.Column("digest", sa.String(64)),  # SHA-256 of a batch that was stored as a whole; null for a stream
    sa.Column("stored", sa.BigInteger, nullable=False),
    sa.Column("rejected", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("model", "batch_id"),
)


class FeatureStore:
    """Labelled rows in two tables, which are made at the first write. Any number of processes may write.

    Parameters
    ----------
    url : str
        SQLAlchemy URL of a SQLite file or a PostgreSQL database.
    """

    def __init__(self, url: str) -> None:
        self._database = Database(url, _metadata)

    def add_batch(self, model: str, batch_id: str, rows: Sequence[FeatureRow]) -> bool:
        """Store all rows of a batch, or none.

        Returns
        -------
        bool
            Whether they were new; False when the store holds this very batch already.

        Raises
        ------
        BatchConflict
            Other rows are stored under this id.
        StoreUnavailable
            The database cannot be written; nothing is stored.
        """
        digest = _digest(rows)
        with self._database.writing() as connection:
            batch = {"stored": len(rows), "rejected": 0, "digest": digest}
            claim = self._database.insert(_batches).values(model=model, batch_id=batch_id, ts_utc=utc_now(), **batch)
            if connection.execute(claim.on_conflict_do_nothing().returning(_batches.c.id)).first() is not None:
                self._add(connection, model, rows)
                return True
            known = connection.execute(sa.select(_batches.c.digest).where(_is_batch(model, batch_id))).scalar_one()
        if known != digest:
            raise BatchConflict(
                f"batch_id {batch_id!r} is taken by other rows{'' if known else ', which were streamed'}; "
                "send the rows that it stands for, or choose another batch_id"
            )
        return False

    def add_rows(self, model: str, rows: Sequence[FeatureRow], rejected: Mapping[str, int]) -> Added:
        """Store those rows that are not stored yet, together.

        Parameters
        ----------
        model : str
            Name of the registered model.
        rows : sequence of FeatureRow
            Rows of any batches.
        rejected : mapping of str to int
            How many rows were refused so far, by batch, for the record; a batch that is not named had none.

        Raises
        ------
        StoreUnavailable
            The database cannot be written; none of these rows is stored.
        """
        rejected = dict.fromkeys((row.batch_id for row in rows), 0) | dict(rejected)
        if not rejected:
            return Added(0, ())
        with self._database.writing() as connection:
            whole = self._note_batches(connection, model, rejected)
            added = self._add(connection, model, [row for row in rows if row.batch_id not in whole])
            for batch_id, count in Counter(batch_id for batch_id, _ in added).items():
                more = {"stored": _batches.c.stored + count}
                connection.execute(_batches.update().where(_is_batch(model, batch_id)).values(more))
            known = [row for row in rows if (row.batch_id, row.position) not in added]
            return Added(len(added), self._unlike_stored(connection, model, known))

    def labeled(self, model: str) -> pd.DataFrame:
        """Return the rows of a model, oldest first.

        Returns
        -------
        DataFrame
            Columns `request_id` (``ingest:{batch_id}.{position}``), `ts_utc` (ISO text), `features_json`, `label`.

        Raises
        ------
        StoreUnavailable
            The database cannot be read.
        """
        import pandas as pd  # a router only writes: it does without

        known_as = sa.literal("ingest:") + _rows.c.batch_id + "." + sa.cast(_rows.c.position, sa.String)
        wanted = (known_as.label("request_id"), _rows.c.ts_utc, _rows.c.features_json, _rows.c.label)
        with self._database.reading() as connection:
            if connection is None:
                return pd.DataFrame({column.name: pd.Series(dtype=object) for column in wanted})
            return pd.read_sql_query(sa.select(*wanted).where(_rows.c.model == model).order_by(_rows.c.id), connection)

    def stats(self, model: str) -> StoreStats:
        """Count what is stored of a model.

        Raises
        ------
        StoreUnavailable
            The database cannot be read.
        """
        with self._database.reading() as connection:
            if connection is None:
                return StoreStats(0, 0, {}, None, None, ())
            return _count(connection, model)

    def _note_batches(self, connection: Connection, model: str, rejected: Mapping[str, int]) -> set[str]:
        """Make sure of the batches and return those that were stored whole.

        They are noted in one order everywhere: who writes to the same ones waits, but never crosswise.
        """
        insert = self._database.insert(_batches)
        keep = insert.on_conflict_do_update(
            index_elements=["model", "batch_id"], set_={"rejected": insert.excluded.rejected}
        )
        fixed = {"model": model, "ts_utc": utc_now(), "stored": 0}
        noted = connection.execute(
            keep.returning(_batches.c.batch_id, _batches.c.digest),
            [{**fixed, "batch_id": name, "rejected": rejected[name]} for name in sorted(rejected)],
        )
        return {batch_id for batch_id, digest in noted if digest is not None}

    def _add(self, connection: Connection, model: str, rows: Sequence[FeatureRow]) -> set[tuple[str, int]]:
        """Insert rows and return batch id and position of those that were new."""
        if not rows:
            return set()
        now = utc_now()
        values = [{"model": model, "ts_utc": now, **vars(row)} for row in rows]
        insert = self._database.insert(_rows).on_conflict_do_nothing().returning(_rows.c.batch_id, _rows.c.position)
        return {(batch_id, position) for batch_id, position in connection.execute(insert, values)}

    def _unlike_stored(self, connection: Connection, model: str, rows: Sequence[FeatureRow]) -> tuple[FeatureRow, ...]:
        """Return those rows that are not what is stored at their place."""
        if not rows:
            return ()
        places = sa.tuple_(_rows.c.batch_id, _rows.c.position).in_([(row.batch_id, row.position) for row in rows])
        columns = (_rows.c.batch_id, _rows.c.position, _rows.c.features_json, _rows.c.label)
        stored = {
            FeatureRow(*found)
            for found in connection.execute(sa.select(*columns).where(_rows.c.model == model, places))
        }
        return tuple(row for row in rows if row not in stored)


def _is_batch(model: str, batch_id: str) -> sa.ColumnElement[bool]:
    return sa.and_(_batches.c.model == model, _batches.c.batch_id == batch_id)


def _digest(rows: Sequence[FeatureRow]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(f"{row.features_json}\0{row.label}\n".encode())
    return digest.hexdigest()


def _count(connection: Connection, model: str) -> StoreStats:
    per_label = (
        sa.select(_rows.c.label, sa.func.count(), sa.func.min(_rows.c.ts_utc), sa.func.max(_rows.c.ts_utc))
        .where(_rows.c.model == model)
        .group_by(_rows.c.label)
        .order_by(_rows.c.label)
    )
    found = connection.execute(per_label).all()
    mine = sa.select(_batches).where(_batches.c.model == model)
    newest = connection.execute(mine.order_by(_batches.c.id.desc()).limit(_NEWEST_BATCHES)).all()
    return StoreStats(
        rows=sum(count for _, count, _, _ in found),
        batches=connection.execute(sa.select(sa.func.count()).select_from(mine.subquery())).scalar_one(),
        labels={label: count for label, count, _, _ in found},
        first_ts_utc=min((first for _, _, first, _ in found), default=None),
        last_ts_utc=max((last for _, _, _, last in found), default=None),
        newest_batches=tuple(Batch(b.batch_id, b.ts_utc, b.stored, b.rejected) for b in newest),
    )
