"""Pages for people: tables and pictures in one HTML file. No script of ours, no network."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

FONT: dict[str, Any] = {
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "svg.fonttype": "none",
    "svg.hashsalt": "crossfade",
}
"""Settings of matplotlib under which a figure is drawn that `svg` is to write."""

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 66rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: .25rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
p.verdict { font-size: 1.15rem; } p.note { color: #555; font-size: .9rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; } .wide { overflow-x: auto; }
th, td { text-align: left; padding: .3rem 1rem .3rem 0; border-bottom: 1px solid #ddd; vertical-align: top; }
td.number, th.number { text-align: right; } svg { width: 100%; height: auto; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """Put HTML fragments into a page."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]], numbers: int = 0) -> str:
    """Write a table; the last `numbers` columns are set to the right."""
    marks = ["" if i < len(header) - numbers else ' class="number"' for i in range(len(header))]
    head = "".join(f'<th scope="col"{mark}>{escape(cell)}</th>' for cell, mark in zip(header, marks, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{mark}>{escape(cell)}</td>" for cell, mark in zip(row, marks, strict=True)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def svg(figure: Figure, label: str) -> str:
    """Return a figure as an SVG element; the label says to a screen reader what it shows."""
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    text = drawn.getvalue()
    return text[text.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(label, quote=True)}"', 1)


def finish(axes: Axes, title: str, legend: str = "lower left") -> None:
    """Give axes their title, legend and grid."""
    axes.set_title(title, loc="left", fontsize=11)
    axes.legend(loc=legend, fontsize=9, ncols=3, frameon=False)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
