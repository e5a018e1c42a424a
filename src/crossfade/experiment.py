"""The name of an experiment: serving seeds the split with it and logs it, the loop finds its rows by it."""

from __future__ import annotations


def experiment_id(model: str, prod: str, staging: str) -> str:
    """Name the test of one version against another.

    Examples
    --------
    >>> experiment_id("IrisClassifier", "1", "2")
    'IrisClassifier-v1-v2'
    """
    return f"{model}-v{prod}-v{staging}"
