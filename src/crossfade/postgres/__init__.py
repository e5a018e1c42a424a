"""The request log in PostgreSQL, for more than one machine: `REQUEST_LOG=postgresql://...`.

address.py (where it is, with a password that nobody sees), link.py (one connection), schema.py and migrations/ (the
tables, and how an older database gets them), private.py (a server of one's own, for tests and benchmarks).
"""
