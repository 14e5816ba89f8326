"""Charts as inline SVG. Every inserted text is escaped."""

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

__all__ = ["answer", "bar", "count_bar", "curve", "gap", "level", "picture", "points", "spread"]

LOWEST, HIGHEST = -17.0, -1.0  # log10 at both ends of the axis of figures


def _at(figure: float, width: float) -> float:
    """Where a figure is on the logarithmic axis."""
    return round((min(max(math.log10(figure), LOWEST), HIGHEST) - LOWEST) / (HIGHEST - LOWEST) * width, 2)


def level(figure: float | None, bound: float, holds: bool, label: str) -> Markup:
    """The worst figure of a level as a bar, and its bound as a line across; equal values have no bar."""
    length = 0 if not figure else _at(figure, 72)
    if figure is None:  # infinite
        length = 72
    tick = _at(bound, 72) if bound else 0
    return Markup(
        '<svg class="level{}" viewBox="0 0 72 10" width="72" height="10" role="img" aria-label="{}"><title>{}</title>'
        '<rect class="track" x="0" y="4" width="72" height="2"/><rect class="bar" x="0" y="2" width="{}" height="6"/>{}'
        "</svg>"
    ).format(
        "" if holds else " broken",
        label,
        label,
        length,
        Markup('<rect class="bound" x="{}" y="0" width="1.5" height="10"/>').format(tick) if tick else "",
    )


def bar(double: float | None, single: float | None, label: str) -> Markup:
    """Two figures, float64 (infinite if None) above float32 (unknown if None), on the axis; as wide as its cell."""

    def one(style: str, y: int, figure: float | None) -> Markup:
        width = _at(figure, 100) if figure else 0
        return Markup('<rect class="{}" x="0" y="{}" width="{}" height="4"/>').format(style, y, width)

    grid = Markup("").join(
        Markup('<rect class="grid" x="{}" y="0" width="0.2" height="12"/>').format(_at(10.0**power, 100))
        for power in (-15, -12, -9, -6, -3)
    )
    return Markup(
        '<svg class="wide" viewBox="0 0 100 12" preserveAspectRatio="none" role="img" aria-label="{}">{}{}{}</svg>'
    ).format(label, grid, one("double", 1, 1.0 if double is None else double), one("single", 7, single))


def count_bar(counts: Sequence[int], most: int, label: str) -> Markup:
    """How often an operator occurs in either file, TensorFlow's above."""
    rects = Markup("").join(
        Markup('<rect class="{}" x="0" y="{}" width="{}" height="4"/>').format(style, y, round(100 * n / most, 2))
        for style, y, n in zip(("tf", "pt"), (1, 7), counts, strict=True)
    )
    return Markup(
        '<svg class="wide" viewBox="0 0 100 12" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, rects)


def spread(low: float, median: float, high: float, most: float, style: str, label: str) -> Markup:
    """Quartiles as a line and the median as a mark, from zero to ``most``."""
    low, median, high = (round(100 * value / most, 2) for value in (low, median, high))
    return Markup(
        '<svg class="wide" viewBox="0 0 100 12" preserveAspectRatio="none" role="img" aria-label="{}">'
        '<rect class="grid" x="0" y="5.5" width="100" height="1"/>'
        '<rect class="{}" x="{}" y="4" width="{}" height="4"/><rect class="ink" x="{}" y="1" width="0.6" height="10"/>'
        "</svg>"
    ).format(label, style, low, max(round(high - low, 2), 0.4), median)


def _boxes(rows: Sequence[Mapping]) -> Markup:
    drawn = []
    for i, row in enumerate(rows):
        x1, y1, x2, y2 = row["box"]
        drawn.append(
            Markup('<rect class="box b{}" x="{}" y="{}" width="{}" height="{}"><title>{}</title></rect>').format(
                row["label"] % 6,
                round(x1, 1),
                round(y1, 1),
                round(max(x2 - x1, 0), 1),
                round(max(y2 - y1, 0), 1),
                f"{i + 1}. class {row['label']}, {row['score']:.3f}",
            )
        )
    return Markup("").join(drawn)


def picture(jpeg: str, size: Sequence[int], label: str, over: Markup | str = "") -> Markup:
    """An image, with drawings over it in its coordinates."""
    height, width = size
    return Markup(
        '<svg class="picture" viewBox="0 0 {} {}" role="img" aria-label="{}">'
        '<image href="data:image/jpeg;base64,{}" width="{}" height="{}" preserveAspectRatio="none"/>{}</svg>'
    ).format(width, height, label, jpeg, width, height, over)


def answer(engine: str, found: Mapping, jpeg: str | None, size: Sequence[int] | None) -> Markup:
    """One engine's answer, drawn: boxes on the sample image, or the image that it made."""
    if found["kind"] == "picture":
        return picture(found["jpeg"], found["size"], f"The picture that {engine} makes")
    if found["kind"] == "boxes" and jpeg and size:
        label = f"{len(found['rows'])} boxes of {engine} on the sample picture"
        return picture(jpeg, size, label, _boxes(found["rows"]))
    return Markup("")


def _path(style: str, across: Sequence[float], up: Sequence[float]) -> Markup:
    """A line through points of a drawing whose height is 100."""
    places = " ".join(f"{round(x, 2)},{round(100 - y, 2)}" for x, y in zip(across, up, strict=True))
    return Markup('<polyline class="line {}" points="{}"/>').format(style, places)


def curve(steps: Sequence[int], panels: Sequence[Sequence[float]], label: str) -> Markup:
    """A loss over the steps, TensorFlow's as a broad line under PyTorch's, from the smallest to the largest value."""
    low, high = min(map(min, panels)), max(map(max, panels))
    last, span = max(steps[-1], 1), (high - low) or 1.0
    lines = Markup("").join(
        _path(style, [200 * step / last for step in steps], [4 + 92 * (value - low) / span for value in values])
        for style, values in zip(("tf", "pt"), panels, strict=True)
    )
    return Markup(
        '<svg class="curve" viewBox="0 0 200 100" preserveAspectRatio="none" role="img" aria-label="{}">{}</svg>'
    ).format(label, lines)


def gap(curves: Sequence[tuple[Sequence[int], Sequence[float]]], last: int, label: str) -> Markup:
    """Differences of both panels over the steps, in float64 and in float32, on the axis of figures."""
    lines = Markup("").join(
        _path(style, [200 * step / max(last, 1) for step in steps], [_at(max(d, 1e-17), 100) for d in found])
        for style, (steps, found) in zip(("double", "single"), curves, strict=True)
    )
    grid = Markup("").join(
        Markup('<rect class="grid" x="0" y="{}" width="200" height="0.5"/>').format(
            round(100 - _at(10.0**power, 100), 2)
        )
        for power in (-15, -12, -9, -6, -3)
    )
    return Markup(
        '<svg class="curve gap" viewBox="0 0 200 100" preserveAspectRatio="none" role="img" aria-label="{}">{}{}</svg>'
    ).format(label, grid, lines)


def points(panels: Sequence[Sequence[Sequence[float]]], labels: Sequence[int], label: str) -> Markup:
    """Points of the plane by class: TensorFlow's as rings, PyTorch's as spots in them.

    The origin is in the middle; the distance from it is drawn as its square root, so that angles stay and few far
    points do not shrink the others.
    """
    far = max(math.hypot(x, y) for panel in panels for x, y in panel) or 1.0
    drawn = []
    for style, radius, panel in zip(("ring", "spot"), (2.2, 0.9), panels, strict=True):
        for (x, y), which in zip(panel, labels, strict=True):
            scale = 96 / math.sqrt(far * math.hypot(x, y)) if x or y else 0.0
            drawn.append(
                Markup('<circle class="{} c{}" cx="{}" cy="{}" r="{}"/>').format(
                    style, which % 10, round(100 + scale * x, 1), round(100 - scale * y, 1), radius
                )
            )
    axes = Markup(
        '<rect class="grid" x="0" y="99.8" width="200" height="0.4"/>'
        '<rect class="grid" x="99.8" y="0" width="0.4" height="200"/>'
    )
    return Markup('<svg class="plane" viewBox="0 0 200 200" role="img" aria-label="{}">{}{}</svg>').format(
        label, axes, Markup("").join(drawn)
    )
