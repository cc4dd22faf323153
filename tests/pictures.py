"""Small encoded pictures for tests, well formed and not."""

from __future__ import annotations

import io
import struct
import zlib

from PIL import Image as PILImage


def encoded(width: int, height: int, kind: str = "PNG", color: int = 0, orientation: int | None = None) -> bytes:
    buffer = io.BytesIO()
    exif = PILImage.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    PILImage.new("RGB", (width, height), (color, 0, 0)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def huge_png(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header claims any size."""
    return png_of(width, height, 8, b"")


def png_of(width: int, height: int, bits: int, rows: bytes) -> bytes:
    """A PNG with three channels of so many bits, whose pixels are these rows, compressed already."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", width, height, bits, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
