"""A picture of the demo's final screen, from a real run, for a light and for a dark page.

    python tests/bench/demo_picture.py             writes docs/images/demo-light.svg and -dark.svg
    python tests/bench/demo_picture.py --seed 7    of another run

The text can be selected, and no font is fetched: a page shows its reader's own monospaced one.
"""

import argparse
import sys
from io import StringIO
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from rich.console import Console
from rich.terminal_theme import TerminalTheme

from budgetguard._cli import demo
from budgetguard._cli.demo_screen import final

COLUMNS = 52  # legible on a phone
# As rich's own, but for the fonts, which that one fetches.
TEMPLATE = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
    <style>
    .{unique_id}-matrix {{
        font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
        font-size: {char_height}px;
        line-height: {line_height}px;
    }}
    .{unique_id}-title {{
        font-size: 18px;
        font-weight: bold;
        font-family: system-ui, sans-serif;
    }}
    {styles}
    </style>
    <defs>
    <clipPath id="{unique_id}-clip-terminal">
      <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
    </clipPath>
    {lines}
    </defs>
    {chrome}
    <g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix">
    {matrix}
    </g>
    </g>
</svg>
"""

# GitHub's colours of a page, its text and its red and green, of which the demo uses no others.
THEMES = {
    "light": TerminalTheme(
        (255, 255, 255),
        (31, 35, 40),
        [(31, 35, 40), (207, 34, 46), (26, 127, 55)] + [(31, 35, 40)] * 5,
    ),
    "dark": TerminalTheme(
        (13, 17, 23),
        (230, 237, 243),
        [(230, 237, 243), (255, 123, 114), (63, 185, 80)] + [(230, 237, 243)] * 5,
    ),
}


def picture(seed: int, theme: TerminalTheme) -> str:
    """The screen as SVG."""
    console = Console(
        record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor"
    )
    command = "budgetguard demo" + f" --seed {seed}" * bool(seed)
    console.print(f"$ {command}\n", highlight=False)
    console.print(final(demo.conditions(seed), demo.compare(seed, lambda _: lambda _: None)))
    svg = console.export_svg(title="", theme=theme, code_format=TEMPLATE, unique_id="demo")
    # rich's border is white, and not to be seen on a light page.
    return svg.replace("rgba(255,255,255,0.35)", "rgba(128,128,128,0.5)")


def main() -> int:
    """Run the demo and write both pictures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=0, help="of the run that is shown")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images", help="the folder")
    options = parser.parse_args()
    for name, theme in THEMES.items():
        path = options.to / f"demo-{name}.svg"
        path.write_text(picture(options.seed, theme), encoding="utf-8")
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
