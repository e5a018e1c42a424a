"""Evidence that may be looked at every day: E-values, which stay honest however often one looks.

An E-value is at least 0, and when B is no better its expectation is at most 1 at any time of stopping; so the chance
that it ever reaches 1 / alpha is at most alpha (Ville 1939). Its inverse is a p-value that is valid at every look.

Sources
-------
`anytime`: the one-sided normal mixture with a half-normal prior, and its tuning; I. Waudby-Smith, D. Arbour, R. Sinha,
E. H. Kennedy and A. Ramdas, "Time-uniform central limit theory and asymptotic confidence sequences", Annals of
Statistics 52(6), 2024.
`paired`: the mixture of binomial likelihood ratios over shares above one half; P. Grünwald, R. de Heide and W. Koolen,
"Safe testing", Journal of the Royal Statistical Society B 86(5), 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import special, stats

_TUNED_FOR_ROWS = 5000
"""The mixture is tightest at about so many rows; it is valid at any number."""


@dataclass(frozen=True)
class Evidence:
    """What the rows so far say about "B is better"."""

    log_e: float
    """Natural logarithm of the E-value; the value itself outgrows floats."""

    @property
    def e_value(self) -> float:
        """At least 0; infinite where a float cannot hold it."""
        return float(np.exp(min(self.log_e, 709.0))) if self.log_e < 709.0 else float("inf")

    @property
    def p_value(self) -> float:
        """Valid at every look; in [0, 1]."""
        return float(np.exp(min(0.0, -self.log_e)))


def anytime(difference: float, variance: float, rows: int, alpha: float) -> Evidence | None:
    """Evidence that a difference is above 0.

    Parameters
    ----------
    difference : float
        Estimated difference, B minus A.
    variance : float
        Its variance, clustered by user.
    rows : int
        Labelled rows of both arms.
    alpha : float
        Level that the mixture is tuned for, in (0, 0.5).

    Returns
    -------
    Evidence or None
        None without rows or variance.

    Examples
    --------
    >>> round(anytime(0.05, 0.0002, 2000, 0.05).p_value, 4)
    0.0107
    """
    if rows == 0 or variance <= 0:
        return None
    z = difference / np.sqrt(variance)
    spread = rows * (-2 * np.log(2 * alpha) + np.log(1 - 2 * np.log(2 * alpha))) / _TUNED_FOR_ROWS
    shrunk = spread / (1 + spread)
    log_e = np.log(2) - np.log1p(spread) / 2 + z**2 / 2 * shrunk + stats.norm.logcdf(z * np.sqrt(shrunk))
    return Evidence(float(log_e))


def paired(only_b: int, only_a: int) -> Evidence:
    """Evidence that, of the rows that exactly one of two models answers rightly, more than half are B's.

    Parameters
    ----------
    only_b, only_a : int
        Rows that only B, and only A, answered rightly.

    Examples
    --------
    >>> round(paired(15, 5).p_value, 4)
    0.1573
    """
    n = only_b + only_a
    log_e = (n + 1) * np.log(2) + special.betaln(only_b + 1, only_a + 1) + _log_beta_below_half(only_a, only_b)
    return Evidence(float(log_e))


def _log_beta_below_half(only_a: int, only_b: int) -> float:
    """Logarithm of I_1/2(only_a + 1, only_b + 1): chance of n + 1 coin tosses to show more than `only_a` heads."""
    return float(stats.binom.logsf(only_a, only_a + only_b + 1, 0.5))
