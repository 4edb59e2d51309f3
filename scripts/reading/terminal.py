"""Draws curves in the terminal: two by four Braille dots in every character.

row 0   1 4     row 0 is the top
row 1   2 5
row 2   3 6
row 3   7 8     a character is U+2800 with a bit for each dot
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from rich.text import Text

from vantage.scripts.reading.bands import Panel, Style, band
from vantage.training.common.console import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

BITS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # [4, 2]
STYLES = ("blue", "yellow", "green", "red", "magenta", "cyan")
HEIGHT, LEAST_WIDTH = 16, 40  # characters
TICK = 18  # minimum of characters between two numbers below the axis


class Canvas:
    """A canvas of `[height, width]` characters of dots, each character in one style."""

    def __init__(self, width: int, height: int) -> None:
        self.dots = np.zeros((height * 4, width * 2), bool)
        self._owner = np.full((height, width), -1)
        self._faint = np.zeros((height, width), bool)

    def line(self, xs: np.ndarray, ys: np.ndarray, owner: int) -> None:
        """Draws lines between points, in dots; rows count from the top."""
        for x0, y0, x1, y1 in zip(xs[:-1], ys[:-1], xs[1:], ys[1:], strict=True):
            count = int(max(abs(x1 - x0), abs(y1 - y0))) + 1
            steps = np.linspace(0, 1, count + 1)
            self._set(x0 + steps * (x1 - x0), y0 + steps * (y1 - y0), owner, faint=False)
        if len(xs) == 1:
            self._set(xs, ys, owner, faint=False)

    def shade(self, xs: np.ndarray, low: np.ndarray, high: np.ndarray, owner: int) -> None:
        """Fills every other dot between two rows, like a chessboard."""
        for x, top, bottom in zip(xs.round().astype(int), high, low, strict=True):
            rows = np.arange(round(top), round(bottom) + 1)
            rows = rows[(rows + x) % 2 == 0]
            self._set(np.full(len(rows), x), rows, owner, faint=True)

    def _set(self, xs: np.ndarray, ys: np.ndarray, owner: int, faint: bool) -> None:
        rows = np.clip(np.rint(ys).astype(int), 0, self.dots.shape[0] - 1)
        columns = np.clip(np.rint(xs).astype(int), 0, self.dots.shape[1] - 1)
        self.dots[rows, columns] = True
        self._owner[rows // 4, columns // 2] = owner
        self._faint[rows // 4, columns // 2] = faint

    def rows(self, letters: str = "") -> list[Text]:
        """The rows; with `letters`, one per owner, lines are letters instead of dots."""
        height, width = self._owner.shape
        cells = self.dots.reshape(height, 4, width, 2).transpose(0, 2, 1, 3)
        codes = 0x2800 + (cells * BITS).sum(axis=(2, 3))  # [height, width]
        lines = []
        for y in range(height):
            line = Text()
            for x in range(width):
                owner, faint = int(self._owner[y, x]), bool(self._faint[y, x])
                if owner < 0:
                    line.append(" ")
                    continue
                sign = letters[owner] if letters and not faint else chr(codes[y, x])
                line.append(sign, f"{'dim ' * faint}{STYLES[owner % len(STYLES)]}")
            lines.append(line)
        return lines


def show(panels: Sequence[Panel], style: Style, console: Console) -> None:
    """Draws panels as wide as the console.

    Without colours, the lines of several groups are letters.
    """
    for number, panel in enumerate(panels):
        if number:
            console.print()
        for line in _panel(panel, style, console):
            console.print(line, no_wrap=True, crop=True, highlight=False, soft_wrap=True)


def _panel(panel: Panel, style: Style, console: Console) -> list[Text]:
    bands = [
        band(group.curves, centre=style.centre, spread=style.spread, points=400)
        for group in panel.groups
    ]
    left, right = min(b[0][0] for b in bands), max(b[0][-1] for b in bands)
    bottom, top = min(b[2].min() for b in bands), max(b[3].max() for b in bands)
    if top == bottom:  # a flat line is drawn in the middle
        bottom, top = bottom - 1, top + 1
    labels = [_number(top), _number((top + bottom) / 2), _number(bottom)]
    margin = max(map(len, labels))
    width = max(console.width - margin - 3, LEAST_WIDTH)
    canvas = Canvas(width, HEIGHT)

    def across(xs: np.ndarray) -> np.ndarray:
        return (xs - left) / ((right - left) or 1.0) * (width * 2 - 1)

    def down(ys: np.ndarray) -> np.ndarray:
        return (top - ys) / (top - bottom) * (HEIGHT * 4 - 1)

    for owner, (xs, _, low, high) in enumerate(bands):
        grid = np.linspace(xs[0], xs[-1], max(int(np.ptp(across(xs))), 1))
        ends = [np.interp(grid, xs, end) for end in (low, high)]
        if (low != high).any():
            canvas.shade(across(grid), down(ends[0]), down(ends[1]), owner)
    for owner, (xs, middle, _, _) in enumerate(bands):
        canvas.line(across(xs), down(middle), owner)
    several = len(bands) > 1
    letters = "".join(chr(ord("a") + n % 26) for n in range(len(bands)))
    plain = several and console.color_system is None
    at = {0: labels[0], HEIGHT // 2: labels[1], HEIGHT - 1: labels[2]}
    lines = [Text(printable(panel.title or panel.ylabel), "bold")]
    for y, row in enumerate(canvas.rows(letters if plain else "")):
        lines.append(Text(f"{at.get(y, ''):>{margin}} ┤" if y in at else " " * margin + " │") + row)
    lines.append(Text(" " * margin + " └" + "─" * width))
    lines.append(Text(" " * (margin + 2) + _ticks(left, right, width)))
    lines.append(Text(f"{printable(panel.xlabel):>{margin + 2 + width}}"))
    for owner, (group, (_, middle, low, high)) in enumerate(zip(panel.groups, bands, strict=True)):
        line = Text(f"{letters[owner] if plain else '━━'} ", STYLES[owner % len(STYLES)])
        line.append(f"{printable(group.label)}: {_number(middle[-1])}", "default")
        if low[-1] != high[-1]:
            line.append(f" [{_number(low[-1])}, {_number(high[-1])}]", "default")
        lines.append(line)
    if any(len(group.curves) > 1 for group in panel.groups):
        lines.append(Text(f"line and band: {style}; the last point of each", "dim"))
    return lines


def _ticks(left: float, right: float, width: int) -> str:
    """Numbers below the axis, with the first and the last at its ends."""
    count = max(width // TICK, 2)
    line = [" "] * width
    for share, value in zip(np.linspace(0, 1, count), np.linspace(left, right, count), strict=True):
        text = _number(value)
        start = round(share * (width - len(text)))
        line[start : start + len(text)] = text
    return "".join(line)


def _number(value: float) -> str:
    """A number with about four digits."""
    if value == 0 or 1e-3 <= abs(value) < 1e7:
        return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.4g}"
    return f"{value:.2e}"
