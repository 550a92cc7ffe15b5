"""Packed kernels: gzip, Zstandard, and the Linux kernel's EFI application that unpacks itself.

Formats: RFC 1952, RFC 8878; drivers/firmware/efi/libstub/zboot-header.S of the Linux kernel. The packed kernel inside
of such an application is used, the code around it is not. A file may be hostile: no more is unpacked than has room.
"""

from __future__ import annotations

import io
import struct
import zlib
from typing import IO

from emulator.core.errors import ImageError

GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
ZBOOT_MAGIC = b"MZ\0\0zimg"
MAGIC_SIZE = len(ZBOOT_MAGIC)
"""As much as `unpack` needs of a file's beginning."""

_ZBOOT_HEADER = struct.Struct("<8s2I8x")
"""Magic, and where the payload is: offset and length. Its packing, as text, and a PE header follow."""
_CHUNK = 1 << 20
_ZSTD_CHUNK = 256
"""Four bytes can stand for 128 KiB, and the unpacker's output has no limit of its own: 8 MiB at a time, at worst."""


def read(stream: IO[bytes], head: bytes, name: str, room: int) -> bytes:
    """What a file holds behind `head`, and that; raises ImageError if it is more than `room` bytes."""
    pieces, left, chunk = [head], room + 1 - len(head), _CHUNK
    if stream.seekable():
        # From the start again and in one go, so that nothing is copied: a kernel is large.
        pieces, left = [], room + 1
        begin = stream.tell() - len(head)
        chunk = max(stream.seek(0, io.SEEK_END) - begin, _CHUNK)
        stream.seek(begin)
    # Else in chunks, because a read sets aside as much as it is asked for, and the room may be far more than the file.
    while left > 0 and (piece := stream.read(min(chunk, left))):
        pieces.append(piece)
        left -= len(piece)
        chunk = _CHUNK
    if left <= 0:
        raise ImageError(f"{name} does not fit into the {room} bytes there are for it")
    return b"".join(pieces)


def unpack(stream: IO[bytes], head: bytes, name: str, room: int) -> bytes:
    """What is in a file that begins with `head`, of MAGIC_SIZE; as it is if not packed. Raises ImageError."""
    if head.startswith(ZBOOT_MAGIC):
        payload = _zboot_payload(read(stream, head, name, room), name)
        stream, head = io.BytesIO(payload), b""
        if not payload.startswith((GZIP_MAGIC, ZSTD_MAGIC)):
            raise ImageError(f"{name} holds a kernel packed in a way that is not supported: use gzip or zstd")
        head = stream.read(MAGIC_SIZE)
    if head.startswith(GZIP_MAGIC):
        return _gunzip(stream, head, name, room)
    if head.startswith(ZSTD_MAGIC):
        return _unzstd(stream, head, name, room)
    return read(stream, head, name, room)


def _zboot_payload(data: bytes, name: str) -> bytes:
    if len(data) < _ZBOOT_HEADER.size:
        raise ImageError(f"{name} is a truncated EFI application")
    _magic, offset, length = _ZBOOT_HEADER.unpack_from(data)
    if offset + length > len(data):
        raise ImageError(f"{name} is a truncated EFI application: its kernel lies behind its end")
    return data[offset : offset + length]


def _gunzip(stream: IO[bytes], head: bytes, name: str, room: int) -> bytes:
    """The first member of a gzip file, never more than `room` bytes of it."""
    unpacker = zlib.decompressobj(wbits=31)
    data = bytearray()
    packed = head
    try:
        while packed and not unpacker.eof:
            data += unpacker.decompress(packed, room + 1 - len(data))
            if len(data) > room:
                raise ImageError(f"{name} does not fit, unpacked, into the {room} bytes there are for it")
            packed = unpacker.unconsumed_tail or stream.read(_CHUNK)
    except zlib.error as error:
        raise ImageError(f"{name} is a broken gzip file: {error}") from error
    if not unpacker.eof:
        raise ImageError(f"{name} is a truncated gzip file")
    return bytes(data)


def _unzstd(stream: IO[bytes], head: bytes, name: str, room: int) -> bytes:
    """The first frame of a Zstandard file, never more than `room` bytes of it."""
    import zstandard  # only such kernels need it

    unpacker = zstandard.ZstdDecompressor().decompressobj()
    data = bytearray()
    packed = head
    try:
        while packed and not unpacker.eof:
            data += unpacker.decompress(packed)
            if len(data) > room:
                raise ImageError(f"{name} does not fit, unpacked, into the {room} bytes there are for it")
            packed = stream.read(_ZSTD_CHUNK)
    except zstandard.ZstdError as error:
        raise ImageError(f"{name} is a broken zstd file: {error}") from error
    if not unpacker.eof:
        raise ImageError(f"{name} is a truncated zstd file")
    return bytes(data)
