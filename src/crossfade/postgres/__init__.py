"""The request log in PostgreSQL, for more than one machine: `REQUEST_LOG=postgresql://...`.

log.py is the log as the router and the loop know it. Written by groupwriter.py (all that waits in one commit), which
uses lines.py (rows as COPY takes them), store.py (each line exactly once) and spool.py (what waits on disk while the
database is away); read by reading.py (ranges of ids) and newest.py (the last rows). retention.py deletes what is too
old, shared.py is what routers share beside the log.

Below them: address.py (where it is, with a password that nobody sees), link.py (one connection), schema.py, upgrade.py
and migrations/ (the tables, and how an older database gets them), private.py (a server of one's own, for tests and
benchmarks).
"""
