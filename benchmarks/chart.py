"""Draws events per second and CPU of table 1. Runs in the peers' venv: `chart.py JSON SVG`.

The JSON is a list of [name, events per second, CPU seconds per million, whether it is ours].
"""

import json
import math
import sys
from pathlib import Path

import matplotlib.pyplot as plt

CUT_AT = 8  # times what ours takes
OURS, OTHERS, INK = "#d1495b", "#9aa5b1", "#333333"


def main(source: str, out: str) -> None:
    """Draw the chart, the same bytes for the same rows."""
    plt.rcParams.update({"svg.hashsalt": "processor", "font.size": 11})
    rows = json.loads(Path(source).read_text(encoding="utf-8"))
    rows.sort(key=lambda row: row[1])
    figure, (speed, cpu) = plt.subplots(
        1, 2, sharey=True, figsize=(11, 0.42 * len(rows) + 1.2), width_ratios=(3, 2)
    )
    panel(speed, rows, 1, "events per second (more is better)")
    cut = CUT_AT * max(row[2] for row in rows if row[3])
    panel(cpu, rows, 2, "CPU seconds per million (less is better; \u25b8 cut off)", cut)
    for label, row in zip(speed.get_yticklabels(), rows, strict=True):
        label.set_color(OURS if row[3] else INK)
        label.set_fontweight("bold" if row[3] else "normal")
    figure.tight_layout(w_pad=2.5)
    figure.savefig(out, metadata={"Date": None}, facecolor="white")


def panel(axes: plt.Axes, rows: list, at: int, title: str, cut: float = math.inf) -> None:
    """Draw bars with their values beside them; one longer than `cut` is cut off, and says so."""
    values = [row[at] for row in rows]
    lengths = [min(value, cut) for value in values]
    colours = [OURS if row[3] else OTHERS for row in rows]
    labels = [shown(value) if value <= cut else f"\u25b8 {shown(value)}" for value in values]
    bars = axes.barh([row[0] for row in rows], lengths, color=colours)
    axes.bar_label(bars, labels, padding=4, color=INK, fontsize=10)
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.set_xlim(0, max(lengths) * 1.18)
    axes.xaxis.set_visible(False)
    axes.tick_params(left=False)
    axes.spines[:].set_visible(False)


def shown(value: float) -> str:
    """Return a value with as many digits as say something."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


if __name__ == "__main__":
    main(*sys.argv[1:])
