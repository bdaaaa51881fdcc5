"""Two pictures of what ways to guard the same calls cost, for a light and for a dark page."""

from pathlib import Path

from decision_rows import Row, Table
from scenarios import ALONE, PROVEN, UNPROVEN
from ways import ADVICE, DEFAULT, DISTRUSTING, OURS, TRUSTING
from workload import Scenario

# The colours of text, of our ways and of the others, on a light and on a dark page.
THEMES = {"light": ("#212529", "#2a6f97", "#adb5bd"), "dark": ("#e9ecef", "#61a5c2", "#6c757d")}

SHOWN = {
    "none": "no guard",
    ADVICE: ADVICE,
    DISTRUSTING: "sole_spender=False",
    DEFAULT: 'the default, "auto"',
    TRUSTING: "sole_spender=True",
}
GROUPS = {
    "nobody else spends": ALONE,
    "others spend": PROVEN,
    "others spend, hardly a balance yet": UNPROVEN,
}


def plot(table: Table, path: Path) -> None:
    """Draw what died and what was refused wrongly, as a mean of the scenarios of each group."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "decision quality"
    from matplotlib import pyplot as plt

    panels = {
        f"{title}:\n{what}": [_mean(table, group, name, what) for name in SHOWN]
        for title, group in GROUPS.items()
        for what in FIGURES
    }
    for theme, (ink, ours, theirs) in THEMES.items():
        mpl.rcParams.update({"text.color": ink, "axes.edgecolor": ink, "ytick.color": ink})
        # One below the other: on a phone two beside each other could not be read.
        figure, axes = plt.subplots(len(panels), figsize=(4.5, 9.6))
        for axis, (title, figures) in zip(axes, panels.items(), strict=True):
            colours = [ours if name in OURS else theirs for name in SHOWN]
            bars = axis.barh(list(SHOWN.values()), figures, color=colours)
            axis.bar_label(bars, [_said(value) for value in figures], padding=3, fontsize=9)
            axis.set_title(title, fontsize=10, loc="left")
            axis.margins(x=0.25, y=0.02)
            axis.invert_yaxis()
            axis.tick_params(labelsize=9)
            axis.set_xticks([])
            axis.spines[["top", "right", "bottom"]].set_visible(False)
        figure.tight_layout()
        target = path.with_stem(f"{path.stem}-{theme}")
        figure.savefig(target, metadata={"Date": None}, transparent=True)


FIGURES = {
    "calls that died, of 100 that were let in": lambda row: (
        100 * row.died / (row.died + row.finished)
    ),
    "refused wrongly, % of calls": lambda row: row.wrong,
}


def _mean(table: Table, group: list[Scenario], name: str, what: str) -> float:
    rows: list[Row] = [table[scenario][name] for scenario in group]
    return sum(FIGURES[what](row) for row in rows) / len(rows)


def _said(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or not value else f"{value:.1f}"
