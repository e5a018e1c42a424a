"""Alembic's revisions of the schema, one module each, applied by `crossfade.postgres.upgrade`. None is ever changed."""
