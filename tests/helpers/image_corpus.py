"""Image files of all kinds, each with what has to become of it."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (12, 8)  # width, height
GREY = 100
ORIENTATION = 0x0112
Make = Callable[[Path], object]


def flat(mode: str, size: tuple[int, int] = SIZE) -> Image.Image:
    """An image of one grey value, in any mode."""
    if mode == "I;16":
        return Image.fromarray(np.full(size[::-1], GREY * 257, np.uint16))
    grey = Image.new("L", size, GREY)
    # from RGB, Pillow would pick from a fixed palette, and dither
    return grey.convert("P") if mode == "P" else grey.convert("RGB").convert(mode)


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    (image or noise()).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """An image that does not compress."""
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return Image.fromarray(values)


def save(kind: str, image: Image.Image, **options: object) -> Make:
    return lambda path: image.save(path, kind, **options)


def content(data: bytes) -> Make:
    return lambda path: path.write_bytes(data)


def frames(kind: str) -> Make:
    others = [Image.new("RGB", SIZE, (250, 0, 0))] * 2
    return lambda path: flat("RGB").save(path, kind, save_all=True, append_images=others)


def rotated(kind: str, orientation: int) -> Make:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return lambda path: flat("RGB").save(path, kind, exif=exif)


def cut(kind: str, share: float) -> Make:
    data = encoded(kind)
    return content(data[: int(len(data) * share)])


def flipped(place: int) -> Make:
    """A PNG with one byte changed; a negative place counts from the end."""
    data = bytearray(encoded("PNG"))
    data[place] ^= 0xFF
    return content(bytes(data))


def claiming(width: int, height: int) -> bytes:
    """A PNG whose header claims another size than its data has."""
    data = bytearray(encoded("PNG"))
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    return bytes(data)


def loop(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere.png"))


def linked(path: Path) -> None:
    flat("RGB").save(path.with_name("target.png"))
    path.symlink_to(path.with_name("target.png"))


MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"),
    "BMP": ("1", "L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
}
SUFFIX = {"PNG": "png", "JPEG": "jpg", "TIFF": "tif", "BMP": "bmp", "WEBP": "webp", "GIF": "gif"}

# by file name; all of them show one grey value, but for those of one bit
READABLE: dict[str, Make] = {
    f"{kind} {mode}.{SUFFIX[kind]}".replace(";", "_"): save(kind, flat(mode))
    for kind, modes in MODES.items()
    for mode in modes
}
READABLE |= {f"turned {i}.jpg": rotated("JPEG", i) for i in range(1, 9)}
READABLE |= {f"turned {i}.png": rotated("PNG", i) for i in (3, 6)}
READABLE |= {f"frames {k}.png": frames(k) for k in ("PNG", "TIFF", "GIF", "WEBP")}
READABLE |= {
    "png.jpg": save("PNG", flat("RGB")),
    "jpeg.png": save("JPEG", flat("RGB")),
    "bmp.tif": save("BMP", flat("RGB")),
    "webp.bmp": save("WEBP", flat("RGB"), lossless=True),
    "UPPER.PNG": save("PNG", flat("RGB")),
    "one.png": save("PNG", flat("RGB", (1, 1))),
    "one.jpg": save("JPEG", flat("RGB", (1, 1))),
    "line.png": save("PNG", flat("RGB", (1, 1000))),
    "progressive.jpg": save("JPEG", flat("RGB"), progressive=True),
    "see-through.png": save("PNG", flat("P"), transparency=0),
    "ネジ été.png": save("PNG", flat("RGB")),
    f"{'x' * 251}.png": save("PNG", flat("RGB")),
    'it\'s "<b>" & [x] %s.png': save("PNG", flat("RGB")),
    os.fsdecode(b"caf\xe9.png"): save("PNG", flat("RGB")),
    "link.png": linked,
}

# what a power cut leaves: the right length, and zeros from some place on
EMPTIED = encoded("PNG")[:5000] + bytes(len(encoded("PNG")) - 5000)
ZIPPED = zlib.compress(encoded("PNG"))
# by file name, with the reason that has to be given
UNREADABLE: dict[str, tuple[Make, str]] = {
    **{
        f"cut at {share}.{suffix}": (cut(kind, share), "")
        for kind, suffix in SUFFIX.items()
        for share in (0.02, 0.3, 0.5, 0.8)
    },
    "emptied.png": (content(EMPTIED), ""),
    **{f"flipped at {i}.png": (flipped(i), "") for i in (0, 5, 13, 20, 30, 37, 400, -20)},
    **{
        f"{name}.png": (content(data), "cannot identify")
        for name, data in {
            "page": b"%PDF-1.7 none",
            "archive": b"PK\x03\x04" + bytes(60),
            "zip of it": ZIPPED,
            "film": b"\0\0\0\x18ftypmp42" + bytes(60),
            "program": b"\x7fELF" + bytes(60),
            "drawing": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "base": b"SQLite format 3\0",
            "numbers": b"1,2,3",
            "late": b"\0" * 10 + encoded("PNG"),
            "zeros": bytes(4096),
        }.items()
    },
    "no width.png": (content(claiming(0, 64)), ""),
    "bomb.png": (content(claiming(100_000, 100_000)), "exceeds limit"),
    "pipe.png": (os.mkfifo, "not a file but a pipe"),
    "empty.png": (content(b""), "the file is empty"),
    "empty.jpg": (content(b""), "the file is empty"),
    "text.png": (content(b"no image"), "cannot identify"),
    "page.jpg": (content(b"<!doctype html><p>404"), "cannot identify"),
    "noise.bmp": (content(np.random.default_rng(1).bytes(500)), "cannot identify"),
    "header.png": (content(encoded("PNG")[:33]), ""),
    "signature.png": (content(b"\x89PNG\r\n\x1a\n"), ""),
    "zeros.tif": (content(b"II*\0" + bytes(100)), ""),
    "folder.png": (Path.mkdir, "not a file but a folder"),
    "loop.png": (loop, "symbolic links"),
    "dangling.png": (dangling, "No such file"),
    "huge.png": (save("PNG", Image.new("1", (20000, 20000))), "exceeds limit"),
    "float.tif": (save("TIFF", Image.new("F", SIZE, 0.5)), "no known scale"),
    "bytes.tif": (save("TIFF", Image.new("I", SIZE, 250)), "32-bit pixels from 250 to 250"),
    "deep.tif": (save("TIFF", Image.new("I", SIZE, 70000)), "32-bit pixels from 70000 to 70000"),
    "minus.tif": (save("TIFF", Image.new("I", SIZE, -1)), "pixels from -1 to -1"),
    "lab.tif": (save("TIFF", Image.new("LAB", SIZE)), "save it as RGB"),
}
IGNORED = (".DS_Store", "._000.png", "Thumbs.db", "notes.txt")
