"""The drawings EmojiVOC is made of: emoji of the 20 VOC classes from three vendors, and tables, which no vendor draws.

`assets/sprites/CLASS/VENDOR-CODEPOINT.png`, with the vendors' notices and licences beside them. A table is drawn here,
with the vendor's plates on it; its name is `VENDOR-tableN`.
"""

from functools import cache

import numpy as np
from PIL import Image

from csra_lab._io.resources import asset
from csra_lab.errors import MissingFile

TABLES = 8  # different tables a vendor
_WHOLE_FIGURES = ("1f9cd", "1f6b6", "1f3c3", "1f483", "1f57a")  # standing, walking, running, two dancers


@cache
def drawings_of(name: str, vendors: tuple[str, ...]) -> tuple[str, ...]:
    """The drawings of a class by these vendors, as "CLASS/VENDOR-CODEPOINT". Whole persons are listed twice.

    So three persons in five stand, walk or dance, and two are faces.
    """
    if name == "diningtable":
        return tuple(f"{name}/{vendor}-table{k}" for vendor in vendors for k in range(TABLES))
    files = sorted(p.stem for p in asset(f"sprites/{name}").glob("*.png") if p.stem.split("-")[0] in vendors)
    if not files:
        raise MissingFile(
            f"{asset(f'sprites/{name}')} holds no drawing by {' or '.join(vendors)}; install csra-lab again."
        )
    twice = [f for f in files if name == "person" and f.split("-")[1] in _WHOLE_FIGURES]
    return tuple(f"{name}/{f}" for f in (*files, *twice))


@cache
def drawing(key: str) -> tuple[Image.Image, np.ndarray]:
    """A drawing as RGBA and its shape: bool (height, width), true where it is at least half opaque."""
    vendor, _, number = key.split("/")[1].partition("-table")
    if number:
        image = _table(vendor, int(number))
    else:
        with Image.open(asset(f"sprites/{key}.png"), formats=["PNG"]) as stored:
            image = stored.convert("RGBA")
    return image, np.asarray(image)[..., 3] >= 128


def _table(vendor: str, number: int) -> Image.Image:
    """Table `number` of a vendor, RGBA. Fluent's are round with one foot, the others' are square with four legs."""
    rng = np.random.default_rng([ord(vendor[0]), number])
    draw = rng.random
    width, height = 128, int(70 + 30 * draw())
    y, x = np.mgrid[:height, :width].astype(np.float64)
    from_middle = np.abs(x - width / 2 + 0.5)
    back, front, inset = 10, 38 + 10 * draw(), 10 + 16 * draw()
    woods = ((139, 90, 43), (101, 67, 33), (205, 133, 63), (222, 184, 135), (240, 235, 225), (120, 60, 40))
    wood = np.array(woods[int(draw() * len(woods))], dtype=np.float64)
    picture = np.zeros((height, width, 4))

    def paint(where: np.ndarray, colour: np.ndarray) -> None:
        picture[where] = [*colour, 255]

    if vendor == "fluent":
        middle = (back + front) / 2
        top = np.hypot(from_middle / 63, (y - middle) / (front - back) * 2) < 1
        edge = np.hypot(from_middle / 63, (y - middle - 6) / (front - back) * 2) < 1
        foot = np.hypot(from_middle / 34, (y - height + 9) / 8) < 1
        paint(((from_middle < 7) & (y > middle) & (y < height - 8)) | foot, wood * 0.6)
        paint(edge, wood * 0.75)
        paint(top, wood)
        picture[top, :3] += (30 - 60 * x / width)[top][:, None]  # light from the left
    else:
        half = 64 - inset * np.clip((front - y) / (front - back), 0, 1)  # narrower at the back
        top = (y >= back) & (y < front) & (from_middle < half)
        paint((np.abs(from_middle - 56 + inset) < 3) & (y > back) & (y < height - 14), wood * 0.55)
        paint((np.abs(from_middle - 57) < 4.5) & (y >= front), wood * 0.65)
        paint((y >= front) & (y < front + 6), wood * 0.7)
        paint(top, wood)
        if draw() < 0.4:  # a cloth that hangs over the front
            cloths = ((220, 60, 60), (90, 130, 210), (250, 250, 245), (90, 160, 90))
            cloth = np.array(cloths[int(draw() * len(cloths))], dtype=np.float64)
            paint(top & (from_middle < half - 14), cloth)
            paint((y >= front) & (y < front + 12) & (from_middle < 50), cloth * 0.85)
    table = Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8), "RGBA")
    plate = drawing(f"diningtable/{vendor}-1f37d")[0].resize((32, 15), Image.Resampling.LANCZOS)
    for place in range(1 + int(3 * draw())):
        table.alpha_composite(plate, (48 + (0, -30, 30)[place], int(back + 3 + draw() * max(1, front - back - 20))))
    return table
