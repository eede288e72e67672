"""Image files that are odd, damaged or hostile, made by Pillow or byte by byte."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

from tests.bad_input.conftest import Case

RED, BLUE = (230, 30, 30), (20, 40, 220)


def picture(mode: str = "RGB", size=(24, 16)) -> Image.Image:
    """The left half red, the right half blue."""
    image = Image.new("RGB", size, BLUE)
    image.paste(RED, (0, 0, size[0] // 2, size[1]))
    return image.convert(mode)


def saved(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def near(colour, other, by=40) -> bool:
    return all(abs(a - b) <= by for a, b in zip(colour, other, strict=True))


def is_the_picture(image: Image.Image) -> bool:
    w, h = image.size
    left, right = image.getpixel((w // 4, h // 2)), image.getpixel((3 * w // 4, h // 2))
    return image.mode == "RGB" and (w, h) == (24, 16) and near(left, RED) and near(right, BLUE)


def grey(low: int, high: int):
    """A check for a grey picture whose left half is `low` and right half `high`."""

    def check(image):
        w, h = image.size
        left, right = image.getpixel((1, h // 2)), image.getpixel((w - 2, h // 2))
        return image.mode == "RGB" and near(left, (low,) * 3, 3) and near(right, (high,) * 3, 3)

    return check


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *chunks: bytes, depth: int = 8, colour: int = 2) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + chunk(b"IEND", b"")


def rows(width: int, height: int, size: int = 3) -> bytes:
    return chunk(b"IDAT", zlib.compress(bytes((width * size + 1) * height)))


def tiff(width: int, height: int, *, next_ifd: int = 0, **changes) -> bytes:
    """A grey TIFF of one strip; `changes` are tags by number, as t258=..."""
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: 16}
    tags |= {int(key[1:]): value for key, value in changes.items()}
    offset = 8 + 16
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return (
        b"II*\0"
        + struct.pack("<I", offset)
        + bytes(16)
        + struct.pack("<H", len(tags))
        + entries
        + struct.pack("<I", next_ifd)
    )


def jpeg_claiming(width: int, height: int) -> bytes:
    whole = bytearray(saved(picture(), "JPEG"))
    start = whole.index(b"\xff\xc0")
    whole[start + 5 : start + 9] = struct.pack(">HH", height, width)
    return bytes(whole)


def bmp_claiming(width: int, height: int) -> bytes:
    whole = bytearray(saved(picture(), "BMP"))
    whole[18:26] = struct.pack("<ii", width, height)
    return bytes(whole)


def gif_claiming(width: int, height: int) -> bytes:
    whole = bytearray(saved(picture("P"), "GIF"))
    whole[6:10] = struct.pack("<HH", width, height)
    start = whole.index(b"\x2c")
    whole[start + 5 : start + 9] = struct.pack("<HH", width, height)
    return bytes(whole)


def webp_claiming(width: int, height: int) -> bytes:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + bytes(4)
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def with_exif(orientation, upright: bool) -> Case:
    """A JPEG whose EXIF block turns it; stored so that it comes out upright where the tag is one of 1 to 8."""
    stored = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    image = picture()
    image = image.transpose(stored[orientation]) if upright and orientation in stored else image
    exif = Image.Exif()
    exif[0x0112] = orientation
    return Case(f"exif {orientation}.jpg", saved(image, "JPEG", exif=exif, quality=95), is_the_picture)


def _sixteen_bit() -> np.ndarray:
    values = np.full((16, 24), 65535, dtype=np.uint16)
    values[:, :12] = 257 * 50
    return values


def readable() -> list[Case]:
    flat = picture()
    grey_image = Image.fromarray((_sixteen_bit() // 257).astype(np.uint8))
    frames = [picture(), Image.new("RGB", (24, 16), (0, 255, 0))]
    animation = {"save_all": True, "append_images": frames[1:], "duration": 50}
    odd = [
        Case("cmyk.jpg", saved(picture("CMYK"), "JPEG", quality=95), is_the_picture),
        Case("cmyk.tiff", saved(picture("CMYK"), "TIFF"), is_the_picture),
        Case("ycbcr.jpg", saved(picture("YCbCr"), "JPEG", quality=95), is_the_picture),
        Case("lab.tiff", saved(Image.new("LAB", (24, 16), (0, 128, 128)), "TIFF"), grey(0, 0)),
        Case("progressive.jpg", saved(flat, "JPEG", progressive=True, quality=95), is_the_picture),
        Case("palette.png", saved(picture("P"), "PNG"), is_the_picture),
        Case("one bit.png", saved(grey_image.point(lambda v: v > 99 and 255).convert("1"), "PNG"), grey(0, 255)),
        Case("grey alpha.png", saved(picture("LA"), "PNG"), lambda i: i.mode == "RGB"),
        Case("alpha.png", saved(picture("RGBA"), "PNG"), is_the_picture),
        Case("all transparent.png", saved(Image.new("RGBA", (24, 16), (9, 9, 9, 0)), "PNG"), grey(255, 255)),
        Case("transparent colour.png", saved(picture("P"), "PNG", transparency=255), is_the_picture),
        Case("alpha.webp", saved(picture("RGBA"), "WEBP", lossless=True), is_the_picture),
        Case("16 bit.png", saved(Image.fromarray(_sixteen_bit()), "PNG"), grey(50, 255)),
        Case("16 bit.tiff", saved(Image.fromarray(_sixteen_bit()), "TIFF"), grey(50, 255)),
        Case("16 bit.pgm", saved(Image.fromarray(_sixteen_bit()), "PPM"), grey(50, 255)),
        Case("32 bit.tiff", saved(Image.fromarray(_sixteen_bit().astype(np.int32)), "TIFF"), grey(50, 255)),
        Case("grey.jpg", saved(grey_image, "JPEG", quality=95), grey(50, 255)),
        Case("animated.gif", saved(frames[0], "GIF", **animation), is_the_picture),
        Case("animated.webp", saved(frames[0], "WEBP", lossless=True, **animation), is_the_picture),
        Case("animated.png", saved(frames[0], "PNG", **animation), is_the_picture),
        Case("pages.tiff", saved(frames[0], "TIFF", save_all=True, append_images=frames[1:]), is_the_picture),
        Case("lzw.tiff", saved(flat, "TIFF", compression="tiff_lzw"), is_the_picture),
        Case("flat.bmp", saved(flat, "BMP"), is_the_picture),
        Case("flat.ppm", saved(flat, "PPM"), is_the_picture),
        Case("jpeg called.png", saved(flat, "JPEG", quality=95), is_the_picture),
        Case("png called.txt", saved(flat, "PNG"), is_the_picture),
        Case("junk behind.jpg", saved(flat, "JPEG", quality=95) + b"<?php evil" * 99, is_the_picture),
        Case("junk behind.png", saved(flat, "PNG") + bytes(999), is_the_picture),
        Case("exif torn.jpg", saved(flat, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff", quality=95), is_the_picture),
        Case("icc torn.png", saved(flat, "PNG", icc_profile=b"no profile"), is_the_picture),
        Case("one pixel.png", saved(Image.new("RGB", (1, 1), RED), "PNG"), lambda i: i.getpixel((0, 0)) == RED),
        Case("thin.png", saved(Image.new("RGB", (60_000, 1), RED), "PNG"), lambda i: i.size == (60_000, 1)),
        Case("thin.jpg", saved(Image.new("RGB", (1, 60_000), RED), "JPEG"), lambda i: i.size == (1, 60_000)),
    ]
    turned = [with_exif(k, True) for k in range(1, 9)]
    strange = [with_exif(k, False) for k in (0, 9, 65535)]
    return odd + turned + strange


def refused() -> list[Case]:
    whole = {
        kind: saved(Image.effect_noise((64, 64), 90).convert("RGB"), kind)
        for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP", "PPM")
    }
    cut = [
        Case(f"{share} of a {kind}", content[: int(share * len(content))])
        for kind, content in whole.items()
        for share in (0.02, 0.5, 0.9)
    ]
    flipped = bytearray(whole["PNG"])
    flipped[60] ^= 255
    header_crc = bytearray(png(4, 4, rows(4, 4)))
    header_crc[30] ^= 1
    claims = [
        Case("billion pixels.png", png(50_000, 50_000, rows(4, 4))),
        Case("more pixels than a number holds.png", png(2**31 - 1, 2**31 - 1, rows(4, 4))),
        Case("ninety million pixels.png", png(9500, 9500, rows(4, 4))),
        Case("billion pixels.jpg", jpeg_claiming(65_500, 65_500)),
        Case("billion pixels.gif", gif_claiming(65_535, 65_535)),
        Case("billion pixels.bmp", bmp_claiming(60_000, 60_000)),
        Case("billion pixels.webp", webp_claiming(16_383, 16_383)),
        Case("billion pixels of tiff", tiff(60_000, 60_000)),
        Case("billion pixels.ppm", b"P6 60000 60000 255\n" + bytes(99)),
        Case("larger than its bytes.png", png(4000, 4000, rows(4, 4))),
        Case("larger than its bytes.ppm", b"P6 4000 4000 255\n" + bytes(99)),
        Case("no width.png", png(0, 9, rows(4, 4))),
        Case("no width.ppm", b"P6 0 9 255\n"),
        Case("no width.jpg", jpeg_claiming(0, 9)),
        Case("no width.tiff", tiff(0, 4)),
        Case("negative width.bmp", bmp_claiming(-20, 16)),
    ]
    torn = [
        Case("a bit flipped.png", bytes(flipped)),
        Case("a wrong check sum.png", bytes(header_crc)),
        Case("no pixels.png", png(4, 4)),
        Case("pixels that are no zip.png", png(4, 4, chunk(b"IDAT", b"nothing"))),
        Case("text that unpacks to 60 MB.png", png(
            4, 4, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(60_000_000))), rows(4, 4))),
        Case("unknown colours.png", png(4, 4, rows(4, 4), colour=7)),
        Case("unknown depth.png", png(4, 4, rows(4, 4), depth=5)),
        Case("no frame.gif", b"GIF89a\x04\0\x04\0\0\0\0;"),
        Case("no scan.jpg", saved(picture(), "JPEG")[:2] + b"\xff\xd9"),
        Case("no tags.tiff", b"II*\0\x08\0\0\0\0\0\0\0\0\0"),
        Case("tags outside.tiff", b"II*\0\xff\xff\xff\x7f"),
        Case("strip outside.tiff", tiff(4, 4, t273=10**9)),
        Case("unknown compression.tiff", tiff(4, 4, t259=4711)),
        Case("floats.tiff", saved(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")),
        Case("floats.pfm", b"Pf 4 4 -1.0\n" + bytes(64)),
    ]  # fmt: skip
    others = [
        Case("empty.jpg", b""),
        Case("text.jpg", b"this is no photograph\n"),
        Case("page.jpg", b"<!DOCTYPE html><html><body>404</body></html>"),
        Case("drawing.svg", b'<!DOCTYPE svg [<!ENTITY a "aa">]><svg xmlns="http://www.w3.org/2000/svg">&a;</svg>'),
        Case("script.eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) (w) file\n"),
        Case("paper.pdf", b"%PDF-1.7\n1 0 obj\n"),
        Case("zip.png", b"PK\x03\x04" + bytes(60)),
        Case("zeros.jpg", bytes(5000)),
        Case("noise.jpg", np.random.default_rng(0).bytes(5000)),
        Case("icon.ico", saved(picture(size=(16, 16)), "ICO")),
        Case("texture.dds", saved(picture(), "DDS")),
        Case("film.im", saved(picture(), "IM")),
        Case("targa.tga", saved(picture(), "TGA")),
        Case("pcx.pcx", saved(picture(), "PCX")),
    ]
    return cut + claims + torn + others
