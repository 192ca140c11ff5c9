"""Bytes for people: as `hexdump -C` shows them."""

from __future__ import annotations

from collections.abc import Iterator


def hexdump(data: bytes, width: int = 16) -> str:
    """Offset, bytes and text, `width` to a line; what is no printable ASCII is a dot, so nothing in it can act."""
    return "\n".join(_lines(data, width)) or "(nothing)"


def _lines(data: bytes, width: int) -> Iterator[str]:
    for offset in range(0, len(data), width):
        part = data[offset : offset + width]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "." for byte in part)
        yield f"{offset:04x}  {part.hex(' '):<{width * 3 - 1}}  |{text}|"
