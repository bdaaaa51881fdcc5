"""Two pictures of what ways to guard the same calls cost, for a light and for a dark page."""

from collections.abc import Callable
from pathlib import Path

from decision_rows import Row, Table
from scenarios import ALONE, PROVEN, UNPROVEN
from ways import ADVICE, DEFAULT, DISTRUSTING, TRUSTING
from workload import Scenario

# The colours of text, of the default, of our other settings and of other ways.
THEMES = {
    "light": ("#212529", "#014f86", "#89b4d0", "#ced4da"),
    "dark": ("#e9ecef", "#61a5c2", "#2c5f7c", "#495057"),
}

SHOWN = {
    "none": "no guard",
    ADVICE: ADVICE,
    DISTRUSTING: "sole_spender=False",
    DEFAULT: 'the default, "auto"',
    TRUSTING: "sole_spender=True",
}
GROUPS = {
    "Nobody else spends": ALONE,
    "Others spend": PROVEN,
    "No proof in time": UNPROVEN,
}
MEASURES: dict[str, Callable[[Row], float]] = {
    "% of calls died": lambda row: 100 * row.died / max(row.died + row.finished, 1),
    "% refused wrongly": lambda row: row.wrong,
}


def plot(table: Table, path: Path) -> None:
    """Draw what died and what was refused wrongly, as a mean of the scenarios of each group."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "decision quality"
    from matplotlib import pyplot as plt

    panels = {
        (title, measure): [_mean(table, group, name, measure) for name in SHOWN]
        for title, group in GROUPS.items()
        for measure in MEASURES
    }
    for theme, (ink, default, ours, theirs) in THEMES.items():
        mpl.rcParams.update({"text.color": ink, "axes.edgecolor": ink, "ytick.color": ink})
        colours = [
            {"none": theirs, ADVICE: theirs, DEFAULT: default}.get(name, ours) for name in SHOWN
        ]
        # One below the other: on a phone two beside each other could not be read.
        figure, axes = plt.subplots(len(panels), figsize=(4.5, 8.6))
        for axis, ((title, measure), figures) in zip(axes, panels.items(), strict=True):
            bars = axis.barh(list(SHOWN.values()), figures, color=colours)
            axis.bar_label(bars, [_said(value) for value in figures], padding=3, fontsize=9)
            axis.set_title(f"{title}: {measure}", fontsize=10, loc="left")
            # The same scale for the same measure: a bar means the same in each panel.
            alike = [value for key, row in panels.items() if key[1] == measure for value in row]
            axis.set_xlim(0, 1.15 * max(*alike, 1))
            axis.margins(y=0.02)
            axis.invert_yaxis()
            axis.tick_params(labelsize=9)
            axis.set_xticks([])
            axis.spines[["top", "right", "bottom"]].set_visible(False)
        figure.tight_layout()
        target = path.with_stem(f"{path.stem}-{theme}")
        figure.savefig(target, metadata={"Date": None}, transparent=True)
        plt.close(figure)


def _mean(table: Table, group: list[Scenario], name: str, measure: str) -> float:
    rows = [table[scenario][name] for scenario in group]
    return sum(MEASURES[measure](row) for row in rows) / len(rows)


def _said(value: float) -> str:
    if 0 < value < 0.05:
        return "< 0.1"
    return f"{value:.0f}" if value >= 10 or not value else f"{value:.1f}"
