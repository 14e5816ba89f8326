"""Drawings of answers: the input and every engine's result, side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from scripts.output import Problem, written

__all__ = ["boxes", "class_map", "colour", "mesh", "points", "regions", "save", "side_by_side", "small", "stacked"]

MARGIN = 8
LINE = 18  # height of a line of text, in pixels
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def colour(number: int) -> tuple[int, int, int]:
    """The colour of a class, as in PASCAL VOC: the bits of its index spread over red, green and blue."""
    channels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            channels[channel] |= (number >> (3 * bit + channel) & 1) << (7 - bit)
    return tuple(channels)


def class_map(picture: Image.Image, classes: np.ndarray, colours: Sequence[tuple[int, int, int]]) -> Image.Image:
    """A picture under the translucent colours of its pixels' classes.

    Args:
        picture: of any size; it is resized to the map.
        classes: (H, W) int.
        colours: red, green and blue of each class, 0 to 255.
    """
    height, width = classes.shape
    over = Image.fromarray(np.array(colours, np.uint8)[classes])
    return Image.blend(picture.convert("RGB").resize((width, height)), over, 0.6)


def boxes(picture: Image.Image, found: Sequence[Mapping]) -> Image.Image:
    """An image with labelled boxes.

    Args:
        picture: of the size that the boxes are measured in.
        found: dicts of ``"box"`` (x1, y1, x2, y2) in pixels, ``"class"`` and ``"text"``.
    """
    picture = picture.convert("RGB")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default()
    for item in found:
        x1, y1, x2, y2 = item["box"]
        chosen = colour(item["class"] + 1)
        draw.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=chosen, width=2)
        draw.rectangle(draw.textbbox((x1, y1), item["text"], font=font), fill=chosen)
        draw.text((x1, y1), item["text"], fill="white" if sum(chosen) < 380 else "black", font=font)
    return picture


def regions(picture: Image.Image, masks: Sequence[np.ndarray]) -> Image.Image:
    """An image under translucent regions in different colours; the first lies on top.

    Args:
        picture: of the size of the masks.
        masks: of (H, W) bool.
    """
    values = np.asarray(picture.convert("RGB"), np.float64).copy()
    for number, mask in reversed(list(enumerate(masks, start=1))):
        values[mask] = 0.5 * np.asarray(picture.convert("RGB"))[mask] + 0.5 * np.array(colour(number))
    return Image.fromarray(np.round(values).astype(np.uint8))


def points(picture: Image.Image, found: Sequence[Sequence[float]]) -> Image.Image:
    """An image with dots in different colours.

    Args:
        picture: of the size that the points are measured in.
        found: x and y of each, in pixels.
    """
    picture = picture.convert("RGB")
    draw, radius = ImageDraw.Draw(picture), max(2, min(picture.size) // 100)
    for number, (x, y) in enumerate(found, start=1):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour(number), outline="white")
    return picture


def mesh(picture: Image.Image, places: np.ndarray, triangles: np.ndarray) -> Image.Image:
    """An image under a surface that is lit from the viewer.

    Args:
        picture: of the size that the places are measured in.
        places: (V, 3) x and y in pixels, y downwards, and how near a vertex is, in pixels for correct light.
        triangles: (F, 3) vertices; the nearer ones are drawn later.
    """
    picture = picture.convert("RGB")
    if not np.isfinite(places).all():
        return picture
    corners = places[triangles]  # (F, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    length = np.linalg.norm(normals, axis=1)
    shade = np.round(60 + 180 * np.abs(normals[:, 2]) / np.where(length > 0, length, 1)).astype(int)
    order = np.argsort(corners[..., 2].mean(1), kind="stable")
    draw = ImageDraw.Draw(picture)
    limit = 4 * max(picture.size)
    for flat, grey in zip(corners[order, :, :2].clip(-limit, limit).reshape(-1, 6).tolist(), shade[order].tolist()):
        draw.polygon(flat, fill=(grey, grey, grey))
    return picture


def small(picture: Image.Image, side: int) -> Image.Image:
    """Shrink an image until its longer side is at most this many pixels."""
    picture = picture.convert("RGB")
    picture.thumbnail((side, side))
    return picture


def stacked(sheets: Mapping[str, Image.Image]) -> Image.Image:
    """Stack sheets, each under its title."""
    font = ImageFont.load_default()
    width = max(sheet.width for sheet in sheets.values())
    page = Image.new("RGB", (width, sum(LINE + MARGIN + sheet.height for sheet in sheets.values())), "white")
    draw, top = ImageDraw.Draw(page), 0
    for title, sheet in sheets.items():
        draw.text((MARGIN, top + MARGIN), title, fill="black", font=font)
        page.paste(sheet, (0, top + MARGIN + LINE))
        top += MARGIN + LINE + sheet.height
    return page


def side_by_side(pictures: Mapping[str, Image.Image], legend: Mapping[str, tuple] | None = None) -> Image.Image:
    """Images in a row, each under its title, and a legend of colours below."""
    legend = legend or {}
    font = ImageFont.load_default()
    width = sum(picture.width for picture in pictures.values()) + MARGIN * (len(pictures) + 1)
    tall = max(picture.height for picture in pictures.values())
    columns = max(1, (width - MARGIN) // 160)
    rows = -(-len(legend) // columns)
    sheet = Image.new("RGB", (width, tall + LINE * (1 + rows) + 3 * MARGIN), "white")
    draw, left = ImageDraw.Draw(sheet), MARGIN
    for title, picture in pictures.items():
        draw.text((left, MARGIN), title, fill="black", font=font)
        sheet.paste(picture, (left, MARGIN + LINE))
        left += picture.width + MARGIN
    for i, (name, chosen) in enumerate(legend.items()):
        x, y = MARGIN + 160 * (i % columns), tall + LINE + 2 * MARGIN + LINE * (i // columns)
        draw.rectangle((x, y, x + 12, y + 12), fill=chosen, outline="black")
        draw.text((x + 18, y), name, fill="black", font=font)
    return sheet


def save(sheet: Image.Image, path: Path) -> None:
    """Write an image file, completely or not at all.

    Raises:
        Problem: if its extension names no format, or it cannot be written.
    """
    check(path)
    with written(path) as temporary:
        sheet.save(temporary)


def check(path: Path) -> None:
    """Reject a file whose extension names no format.

    Raises:
        Problem: names the known extensions.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise Problem(f"--draw {path}: a file that ends in {', '.join(SUFFIXES)} was expected")
