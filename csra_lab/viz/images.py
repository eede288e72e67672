"""Images beside charts: maps laid over an image, boxes, and rows of images with captions."""

import base64
import html
import io
from collections.abc import Mapping, Sequence

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from csra_lab.datasets.dataset import Box
from csra_lab.datasets.images import upright_rgb
from csra_lab.errors import ConfigError
from csra_lab.viz.display import INK, ROW, SERIES, Inline

COLOUR_MAP = "viridis"
TILE, LARGE_TILE = 220, 300  # CSS pixels of an image at least, three and two in a row


def overlay(
    image: Image.Image, heat: np.ndarray, *, title: str | None = None, limits: tuple[float, float] | None = None
) -> Image.Image:
    """A heat map over a picture: the picture in grey, the map (bilinear, from blue to yellow) on top of it.

    Args:
        image: any size and mode; one that a camera turned is put upright, as for a prediction.
        heat: (h, w) finite numbers, such as an attention map.
        title: text for a strip above the picture.
        limits: values of the map's two ends; None for the least and the largest of this map.

    Returns:
        An RGB picture of the size of the upright image, higher by the strip where there is a title.

    Raises:
        CsraError: the map is not (h, w), or holds numbers that are not finite.
    """
    heat = np.asarray(heat, dtype=np.float32)
    if heat.ndim != 2 or heat.size == 0 or not np.isfinite(heat).all():
        raise ConfigError(
            f"overlay needs a map (h, w) of finite numbers, not one of shape {heat.shape} with {heat.dtype}."
        )
    image = upright_rgb(image)
    low, high = limits if limits is not None else (heat.min(), heat.max())
    smooth = np.asarray(Image.fromarray(heat).resize(image.size, Image.Resampling.BILINEAR))  # (H, W)
    strength = np.clip((smooth - low) / (high - low), 0, 1) if high > low else np.full_like(smooth, 0.5)
    grey = np.asarray(image.convert("L"), dtype=np.float32)[..., None] / 255  # (H, W, 1)
    colour = matplotlib.colormaps[COLOUR_MAP](strength)[..., :3]  # (H, W, 3)
    mixed = Image.fromarray(np.uint8(255 * (0.45 * grey + 0.55 * colour) + 0.5))
    return mixed if title is None else _with_title(mixed, title)


def boxed(image: Image.Image, boxes: Sequence[Box], *, scale: int = 2) -> Image.Image:
    """The upright image, `scale` times as large, with a named rectangle on every box; dashed where it is difficult.

    A name stands above its box, below it or inside, wherever it covers the least of other boxes.
    """
    image = upright_rgb(image)
    large = image.resize((scale * image.width, scale * image.height), Image.Resampling.LANCZOS)
    stripes = Image.fromarray(np.uint8(255 * (np.add.outer(range(large.height), range(large.width)) % 12 < 7)))
    height, names = max(13, large.width // 20), list(dict.fromkeys(b.name for b in boxes))
    font = ImageFont.load_default(height)
    corners = [tuple(round(scale * v) for v in (b.xmin, b.ymin, b.xmax, b.ymax)) for b in boxes]
    for box, (x0, y0, x1, y1) in zip(boxes, corners, strict=True):
        colour, framed = SERIES[names.index(box.name) % 4], large.copy()
        for width, ink in ((5, "white"), (4, colour)):
            ImageDraw.Draw(framed).rectangle((x0, y0, x1 - 1, y1 - 1), outline=ink, width=width)
        large.paste(framed, mask=stripes if box.difficult else None)
    taken = list(corners)
    for box, corner in zip(boxes, corners, strict=True):
        size = round(font.getlength(box.name)) + 8, round(1.35 * height)
        x, y = _tag_place(corner, size, large.size, taken)
        tag = (x, y, x + size[0], y + size[1])
        taken += 4 * [tag]  # a name on a name is harder to read than a name on a box
        draw = ImageDraw.Draw(large)
        draw.rectangle(tag, fill=SERIES[names.index(box.name) % 4])
        draw.text((x + 4, y + size[1] // 2), box.name, fill="white", font=font, anchor="lm")
    return large


def _tag_place(box: tuple, tag: tuple[int, int], image: tuple[int, int], taken: Sequence[tuple]) -> tuple[int, int]:
    """The left upper corner of a name of size `tag` that covers the least of the rectangles in `taken`."""
    x0, y0, x1, y1 = box
    wide, high = tag
    left, right = min(max(0, x0), image[0] - wide), min(max(0, x1 - wide), image[0] - wide)
    heights = [y for y in (y0 - high, y1) if 0 <= y <= image[1] - high]
    inside = min(max(0, y0), image[1] - high)
    places = [(x, y) for y in (*heights, inside) for x in (left, right)]

    def covered(place: tuple[int, int]) -> int:
        x, y = place
        widths = (max(0, min(x + wide, b[2]) - max(x, b[0])) for b in taken)
        highs = (max(0, min(y + high, b[3]) - max(y, b[1])) for b in taken)
        return sum(w * h for w, h in zip(widths, highs, strict=True))

    return min(places, key=covered)  # of equals the first: above, at the left


def image_row(captioned: Mapping[str, Image.Image], *, alt: str) -> Inline:
    """Images with their captions: side by side where there is room, at least 220 CSS pixels wide.

    One, two and four images are larger, two in a row; other numbers are laid out three in a row.
    """
    tiles = "".join(tile(caption, image) for caption, image in captioned.items())
    least = LARGE_TILE if len(captioned) in (1, 2, 4) else TILE
    grid = (
        f"flex:1 1 100%;display:grid;gap:.75rem;grid-template-columns:repeat(auto-fill,minmax(min(100%,{least}px),1fr))"
    )
    label = html.escape(alt)
    markup = f'{ROW}<div role="img" aria-label="{label}" class="lab-images" style="{grid}">{tiles}</div></div>'
    return Inline(markup, alt, lambda: row_png(captioned, least))


def tile(caption: str, image: Image.Image) -> str:
    """An image with its caption, as wide as what it lies in."""
    return (
        f'<figure style="margin:0"><img src="{_data_url(image, 2 * TILE)}" alt="" style="width:100%;border-radius:4px">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def row_png(captioned: Mapping[str, Image.Image], size: int = TILE) -> bytes:
    """The images as one PNG, `size` pixels wide each and at most four in a row, captions below."""
    font, gap, most = ImageFont.load_default(size=14), 12, 4
    tiles = [(c, i.convert("RGB").resize((size, round(size * i.height / i.width)))) for c, i in captioned.items()]
    rows = [tiles[k : k + most] for k in range(0, len(tiles), most)]
    drawn = [_drawn_row(row, size, gap, font) for row in rows]
    sheet = Image.new("RGB", (max(d.width for d in drawn), sum(d.height for d in drawn)), "white")
    for k, row in enumerate(drawn):
        sheet.paste(row, (0, sum(d.height for d in drawn[:k])))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _drawn_row(tiles: Sequence[tuple[str, Image.Image]], size: int, gap: int, font) -> Image.Image:
    lines = [_wrapped(caption, font, size) for caption, _ in tiles]
    height = max(image.height for _, image in tiles) + 18 * max(map(len, lines)) + gap
    row = Image.new("RGB", ((size + gap) * len(tiles), height), "white")
    draw = ImageDraw.Draw(row)
    for k, ((_, image), text) in enumerate(zip(tiles, lines, strict=True)):
        row.paste(image, (k * (size + gap), 0))
        draw.multiline_text((k * (size + gap), image.height + 4), "\n".join(text), fill=INK, font=font)
    return row


def _wrapped(text: str, font, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return lines


def _data_url(image: Image.Image, width: int) -> str:
    if image.width > width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _with_title(image: Image.Image, title: str) -> Image.Image:
    height = max(12, image.width // 18)
    font, strip = ImageFont.load_default(height), round(1.6 * height)
    while title and font.getlength(title) > image.width - 8:
        title = title[:-2].rstrip() + "…" if len(title) > 2 else ""
    titled = Image.new("RGB", (image.width, image.height + strip), "white")
    titled.paste(image, (0, strip))
    ImageDraw.Draw(titled).text((4, strip // 2), title, fill=INK, font=font, anchor="lm")
    return titled
