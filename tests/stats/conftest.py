"""Hypothesis as these tests use it."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("crossfade", deadline=None)  # a busy machine is no failure
settings.load_profile("crossfade")
