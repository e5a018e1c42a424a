"""The page of a drift check: the decision with its reasons, every column, the trend, and plots of a sample."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure

from crossfade.files import replace_text
from crossfade.loop.drift import ColumnDrift, DriftReport
from crossfade.loop.policy import Recommendation
from crossfade.loop.reports import evidently_html
from crossfade.page import FONT, document, finish, svg, table

_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's, which colour-blind readers tell apart; as many features have a line of their own."""

_FIRST = ("schema_broken", "drift")
"""Verdicts whose columns stand on top."""

_LEAST_P = 1e-6


def write_drift_page(
    path: Path,
    report: DriftReport,
    decision: Recommendation,
    trend: pd.DataFrame,
    psi_threshold: float,
    sample: tuple[pd.DataFrame, pd.DataFrame] | None,
) -> None:
    """Write the page.

    Parameters
    ----------
    path : Path
        Where to.
    report, decision : DriftReport, Recommendation
        What was found, and what follows.
    trend : DataFrame
        As `trend_of` makes it.
    psi_threshold : float
        Drawn into the trend.
    sample : tuple of DataFrame, or None
        Rows that were learnt and newest live rows, for Evidently's plots.
    """
    title = f"Drift check: {report.verdict.replace('_', ' ')}"
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in decision.reasons)
    parts = [
        f"<h1>{escape(title)}</h1>",
        f'<p class="verdict">Decision: {decision.decision}</p><ul>{reasons}</ul>',
    ]
    if report.columns:
        columns = sorted(report.columns, key=lambda column: (column.verdict not in _FIRST, -(column.psi or 0)))
        header = ("column", "verdict", "PSI", "p", "KS or distance", "p", "mean learnt", "mean now", "shift")
        parts += ["<h2>Every column</h2>", table(header, [_row(column) for column in columns], numbers=7)]
        parts.append(
            '<p class="note">The distance of categories is the total variation. p-values are adjusted for the number '
            "of tests (Holm). The shift is in standard deviations of what was learnt.</p>"
        )
    if not trend.empty:
        parts += ["<h2>PSI over the last windows</h2>", _picture(trend, psi_threshold)]
    if sample is not None:
        framed = escape(evidently_html(*sample), quote=True)
        parts.append(
            "<h2>Distributions, by Evidently</h2>"
            '<p class="note">On a sample, for looking at: its tests do not enter the decision above.</p>'
            f'<iframe title="Evidently" srcdoc="{framed}" style="width:100%;height:60rem;border:0"></iframe>'
        )
    replace_text(path, document(title, parts))


def _row(column: ColumnDrift) -> tuple[str, ...]:
    is_number = column.ks_statistic is not None
    distance, p_value = (
        (column.ks_statistic, column.ks_pvalue) if is_number else (column.category_distance, column.chi2_pvalue)
    )
    numbers = (column.psi, column.psi_pvalue, distance, p_value, column.reference_mean, column.live_mean, column.shift)
    shown = ["" if number is None else f"{number:.3g}" for number in numbers]
    for place, p in ((1, column.psi_pvalue), (3, p_value)):
        if p is not None and p < _LEAST_P:
            shown[place] = f"< {_LEAST_P:g}"
    return (column.feature, column.verdict.replace("_", " "), *shown)


def _picture(trend: pd.DataFrame, psi_threshold: float) -> str:
    """Draw the PSI of each feature per window, as SVG; the largest ones in colour."""
    ends = trend.drop_duplicates("window").set_index("window")["last_ts"]
    largest = trend.groupby("feature")["psi"].max().sort_values(ascending=False, kind="stable").index
    with rc_context(FONT):
        figure = Figure(figsize=(11, 4), layout="constrained")
        axes = figure.subplots()
        for rank, name in enumerate(largest):
            line = trend[trend["feature"] == name]
            style: dict[str, Any] = {"color": "#cccccc", "zorder": 1}
            if rank < len(_COLOURS):  # the space: matplotlib leaves out a label that begins with an underscore
                style = {"color": _COLOURS[rank], "label": f" {name}", "marker": "."}
            axes.plot(line["window"], line["psi"], **style)
        axes.axhline(psi_threshold, color="#555555", linestyle="--", linewidth=1, label="PSI_THRESHOLD")
        shown = ends.iloc[:: max(1, len(ends) // 6)]
        axes.set_xticks(shown.index.to_list(), [str(end)[:16].replace("T", " ") for end in shown])
        axes.set_ylim(bottom=0)
        finish(axes, "windows without overlap, the newest on the right", legend="upper left")
        return svg(figure, f"PSI of {len(largest)} features over {len(ends)} windows")
