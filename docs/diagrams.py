"""Draws the diagrams of docs/pictures, light and dark: `python docs/diagrams.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

FOLDER = Path(__file__).parent / "pictures"
LINE = 17  # height of a line of text
# colours by what they mean: ink, paper of a box, shared, of one task alone, frozen
THEMES = {
    "light": {
        "ink": "#1f2933", "plain": "#f4f6f8", "shared": "#d3e3fd", "task": "#ffe3c2",
        "frozen": "#dfe3e8",
    },
    "dark": {
        "ink": "#e6e9ee", "plain": "#2b313c", "shared": "#23406b", "task": "#6b4217",
        "frozen": "#444c58",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A box with lines of text, the first of them bold.

    Attributes:
        x: Its left edge.
        y: Its upper edge.
        width: Its width.
        kind: A colour of the theme.
        lines: The text.
    """

    x: int
    y: int
    width: int
    kind: str
    lines: Sequence[str]

    @property
    def height(self) -> int:
        """By the number of lines."""
        return LINE * len(self.lines) + 18

    def draw(self, theme: dict[str, str]) -> Iterator[str]:
        """Yield the elements of SVG."""
        yield (
            f'<rect x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="6" '
            f'fill="{theme[self.kind]}" stroke="{theme["ink"]}" stroke-opacity="0.4"/>'
        )
        for i, line in enumerate(self.lines):
            weight = ' font-weight="600"' if i == 0 else ""
            middle, base = self.x + self.width // 2, self.y + 22 + LINE * i
            yield f'<text x="{middle}" y="{base}"{weight}>{escape(line)}</text>'


@dataclass(frozen=True)
class Arrow:
    """An arrow through points; its tip is at the last one.

    Attributes:
        points: At least two.
    """

    points: Sequence[tuple[int, int]]

    def draw(self, theme: dict[str, str]) -> Iterator[str]:
        """Yield the element of SVG."""
        path = " L".join(f"{x},{y}" for x, y in self.points)
        yield (
            f'<path d="M{path}" fill="none" stroke="{theme["ink"]}" stroke-width="1.5" '
            'marker-end="url(#tip)"/>'
        )


@dataclass(frozen=True)
class Note:
    """A line of text by itself, which begins at a point.

    Attributes:
        x: Where it begins.
        y: Its base line.
        text: The line.
    """

    x: int
    y: int
    text: str

    def draw(self, theme: dict[str, str]) -> Iterator[str]:
        """Yield the element of SVG."""
        yield f'<text x="{self.x}" y="{self.y}" text-anchor="start">{escape(self.text)}</text>'


Part = Box | Arrow | Note


def svg(size: tuple[int, int], parts: Sequence[Part], theme: dict[str, str]) -> str:
    """A drawing as text."""
    width, height = size
    tip = f'<path d="M0,0 L8,4 L0,8 z" fill="{theme["ink"]}"/>'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="system-ui, sans-serif" font-size="13" '
        f'text-anchor="middle" fill="{theme["ink"]}">',
        '<defs><marker id="tip" markerWidth="8" markerHeight="8" refX="7" refY="4" '
        f'orient="auto" markerUnits="userSpaceOnUse">{tip}</marker></defs>',
        *(element for part in parts for element in part.draw(theme)),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def chain(top: int, boxes: Sequence[tuple[str, Sequence[str]]], width: int) -> list[Part]:
    """Boxes from left to right, with arrows between them."""
    gap, drawn = 30, list[Part]()
    for i, (kind, lines) in enumerate(boxes):
        left = 10 + i * (width + gap)
        box = Box(left, top, width, kind, lines)
        if i:
            middle = top + box.height // 2
            drawn.append(Arrow([(left - gap, middle), (left - 2, middle)]))
        drawn.append(box)
    return drawn


def architecture() -> tuple[tuple[int, int], list[Part]]:
    """All parts, and what belongs to one product alone."""
    parts: list[Part] = [
        Box(10, 104, 110, "plain", ["image", "product", "not known"]),
        Arrow([(120, 138), (148, 138)]),
        Box(150, 104, 140, "frozen", ["backbone", "timm, frozen", "one pass"]),
        Arrow([(220, 104), (220, 50), (348, 50)]),
        Box(350, 16, 170, "task", ["router", "a prototype", "for each product"]),
        Arrow([(290, 138), (348, 138)]),
        Box(350, 104, 170, "task", ["input adapter", "of the product", "that was chosen"]),
        Arrow([(435, 85), (435, 102)]),
        Arrow([(520, 138), (548, 138)]),
        Box(550, 104, 170, "shared", ["flow", "shared base, frozen", "after the first product"]),
        Box(550, 196, 170, "task", ["LoRA factors, biases", "of the same product"]),
        Arrow([(635, 196), (635, 175)]),
        Arrow([(720, 138), (748, 138)]),
        Box(750, 104, 140, "task", ["score", "norm, or distance", "in a memory bank"]),
        Arrow([(820, 173), (820, 194)]),
        Box(750, 196, 140, "plain", ["decision", "by the threshold"]),
    ]
    keys = ("frozen", "shared", "task")
    texts = ("never trained", "trained by the first product", "of one product: its expert")
    for i, (kind, text) in enumerate(zip(keys, texts, strict=True)):
        parts += [Box(10, 184 + 24 * i, 24, kind, []), Note(44, 198 + 24 * i, text)]
    return (900, 262), parts


def image() -> tuple[tuple[int, int], list[Part]]:
    """The shapes that an image takes, with the demo's numbers."""
    boxes = [
        ("plain", ["image", "3 x 256 x 256", "uint8"]),
        ("frozen", ["features", "16 x 16 x 152", "one pass"]),
        ("task", ["whitened", "16 x 16 x 152", "input adapter"]),
        ("shared", ["latent", "16 x 16 x 152", "eight blocks"]),
        ("task", ["patch scores", "16 x 16", "memory banks"]),
        ("plain", ["map, score", "256 x 256, one", "and a decision"]),
    ]
    return (890, 92), chain(10, boxes, 118)


def boundary() -> tuple[tuple[int, int], list[Part]]:
    """What each task trains, and what stays."""
    parts: list[Part] = []
    tasks = ("task 0: bottle", "task 1: cable", "months later: screw")
    for i, name in enumerate(tasks):
        left = 10 + 300 * i
        base = ["base of the flow", "trained"] if i == 0 else ["base of the flow", "frozen"]
        parts += [Note(left, 24, name), Box(left, 36, 250, "frozen" if i else "shared", base)]
        if i:
            parts.append(Arrow([(left - 50, 62), (left - 2, 62)]))
        for j in range(i + 1):
            state = "trained" if i == j else "the same to the bit"
            lines = [f"expert of {tasks[j].split(': ')[1]}", state]
            parts.append(Box(left, 98 + 60 * j, 250, "task" if i == j else "frozen", lines))
    return (870, 280), parts


def expert() -> tuple[tuple[int, int], list[Part]]:
    """The contents of an expert file."""
    columns = [
        ("task", ["flow", "LoRA factors A, B", "bias shifts", "input adapter"]),
        ("task", ["router", "prototype of", "16 regions", "scatter matrix"]),
        ("task", ["score", "memory banks", "as 8-bit integers", "(if it uses them)"]),
        ("task", ["decision", "calibration scores", "novelty limit", "region of interest"]),
        ("plain", ["proof", "hashes of base,", "backbone, images", "signature (optional)"]),
    ]
    parts: list[Part] = [Note(10, 22, "poly.safetensors: no image, nothing of another product")]
    for i, (kind, lines) in enumerate(columns):
        parts.append(Box(10 + 170 * i, 34, 160, kind, lines))
    return (860, 132), parts


DIAGRAMS = {
    "architecture": architecture,
    "image": image,
    "boundary": boundary,
    "expert": expert,
}


def drawings() -> Iterator[tuple[Path, str]]:
    """Yield place and text of every drawing."""
    for name, draw in DIAGRAMS.items():
        for theme, colours in THEMES.items():
            yield FOLDER / f"{name}-{theme}.svg", svg(*draw(), colours)


def main() -> None:
    """Write all drawings."""
    FOLDER.mkdir(exist_ok=True)
    for path, text in drawings():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
