"""Images: what the board puts into guest memory before the guest runs, from ELF, Linux or raw files, packed or not.

Formats: System V ABI, chapter 4 and 5 (ELF), with the RISC-V ELF psABI's machine number; the Linux kernel's
Documentation/arch/riscv/boot-image-header.rst; see `packed` for how kernels may be packed.
A file may be hostile: what it claims is checked against the window that it has to fit into before anything is read.
Left out: U-Boot's uImage (refused), relocation (as in QEMU, segments go where their physical addresses say).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from emulator.boards import packed
from emulator.boards.layout import Window
from emulator.core.bus import AddressMap
from emulator.core.errors import ImageError

if TYPE_CHECKING:
    from elftools.elf.structs import ELFStructs

ELF_MAGIC = b"\x7fELF"
UIMAGE_MAGIC = b"\x27\x05\x19\x56"
LINUX_MAGIC, LINUX_MAGIC_AT = b"RSC\x05", 56
LINUX_IMAGE_SIZE = struct.Struct("<16xQ")
"""Where a Linux image's header has the memory that it takes, what it clears by itself included."""

MAX_PROGRAM_HEADERS = 256
"""More than any linker makes; each costs time to look at."""

_ELF_HEADER_SIZE, _PROGRAM_HEADER_SIZE = 64, 56
_ELF_CLASS_AT, _ELF_DATA_AT = 4, 5
_ELF_CLASS_64, _ELF_LITTLE_ENDIAN = 2, 1
_ZEROS = bytes(1 << 20)


@dataclass(frozen=True, slots=True)
class Image:
    """Bytes at a place: `data` at `start`, then zeros up to, not including, `end`."""

    name: str
    start: int
    end: int
    data: bytes

    def __str__(self) -> str:
        return f"{self.name} (0x{self.start:x}-0x{self.end - 1:x})"


@dataclass(frozen=True, slots=True)
class Loaded:
    """Where an image file went: its lowest address, the one behind its highest, and an ELF's entry point."""

    low: int
    high: int
    entry: int | None = None
    is_linux: bool = False


class ImageSet:
    """All images of one machine; none may overlap another or leave the window of `ram`."""

    def __init__(self, ram: Window) -> None:
        self.ram = ram
        self._images: list[Image] = []

    def __iter__(self) -> Iterator[Image]:
        return iter(sorted(self._images, key=lambda image: image.start))

    def room(self, start: int) -> int:
        """How many bytes of RAM there are from `start` on; 0 where there is none."""
        return self.ram.end - start if self.ram.holds(start, start) else 0

    def check(self, name: str, start: int, size: int) -> None:
        """Raise ImageError unless `size` bytes at `start` lie in RAM and hit no other image."""
        image = Image(name, start, start + size, b"")
        if not self.ram.holds(start, start + size):
            raise ImageError(f"{image} does not fit into RAM (0x{self.ram.base:x}-0x{self.ram.end - 1:x})")
        for other in self._images:
            if start < other.end and other.start < image.end:
                raise ImageError(f"{image} overlaps {other}")

    def add(self, name: str, start: int, data: bytes, *, size: int | None = None) -> Image:
        """Place `data`, filled up with zeros to `size` bytes; raises ImageError as `check` does."""
        size = len(data) if size is None else size
        self.check(name, start, size)
        image = Image(name, start, start + size, data)
        self._images.append(image)
        return image

    def replace(self, old: Image, data: bytes) -> Image:
        """Give an image other contents of the same length, for the next time it is written."""
        if len(data) != len(old.data):
            raise ValueError(f"{old.name}: {len(data)} bytes cannot replace {len(old.data)}")
        image = Image(old.name, old.start, old.end, data)
        self._images[self._images.index(old)] = image
        return image

    def write(self, bus: AddressMap, *, blank: bool) -> None:
        """Put every image into memory, trailing zeros too unless memory is `blank`, that is, still all zero."""
        for image in self._images:
            bus.write_ram(image.start, image.data)
            if not blank:
                for start in range(image.start + len(image.data), image.end, len(_ZEROS)):
                    bus.write_ram(start, _ZEROS[: image.end - start])


def load_program(images: ImageSet, what: str, path: Path, base: int, *, unpack: bool = False) -> Loaded:
    """Place a firmware or kernel file: an ELF where it says, anything else as it is at `base`.

    `what` names its part for errors. With `unpack`, a packed file is unpacked first. Raises ImageError.
    """
    try:
        with path.open("rb") as stream:
            magic = stream.read(packed.MAGIC_SIZE)
            if magic.startswith(ELF_MAGIC):
                return _load_elf(images, path.name, stream)
            if magic.startswith(UIMAGE_MAGIC):
                raise ImageError(f"{path.name} is a U-Boot uImage, which cannot be loaded: pass what it contains")
            data = _read(stream, magic, path.name, images.room(base), unpack=unpack)
    except OSError as error:
        raise ImageError(f"could not load {what} '{path}': {error.strerror or error}") from error
    if data.startswith(ELF_MAGIC):
        return _load_elf(images, path.name, io.BytesIO(data))
    return _place_raw(images, path.name, base, data)


def load_raw(images: ImageSet, what: str, path: Path, base: int) -> Loaded:
    """Place a file as it is, whatever it contains; raises ImageError."""
    try:
        with path.open("rb") as stream:
            data = packed.read(stream, b"", path.name, images.room(base))
    except OSError as error:
        raise ImageError(f"could not load {what} '{path}': {error.strerror or error}") from error
    if data.startswith(UIMAGE_MAGIC):
        raise ImageError(f"{path.name} is a U-Boot uImage, which cannot be loaded: pass what it contains")
    return _place_raw(images, path.name, base, data)


def read_file(what: str, path: Path, limit: int, *, unpack: bool = False) -> bytes:
    """The contents of a file that is not placed by itself; raises ImageError if it has more than `limit` bytes."""
    try:
        with path.open("rb") as stream:
            return _read(stream, stream.read(packed.MAGIC_SIZE), path.name, limit, unpack=unpack)
    except OSError as error:
        raise ImageError(f"could not load {what} '{path}': {error.strerror or error}") from error


def _read(stream: IO[bytes], head: bytes, name: str, room: int, *, unpack: bool) -> bytes:
    return packed.unpack(stream, head, name, room) if unpack else packed.read(stream, head, name, room)


def _place_raw(images: ImageSet, name: str, base: int, data: bytes) -> Loaded:
    """Place bytes as they are, with as much memory behind them as a Linux image says that it needs."""
    if not data:
        raise ImageError(f"{name} is empty")
    is_linux = data.startswith(LINUX_MAGIC, LINUX_MAGIC_AT)
    needed = LINUX_IMAGE_SIZE.unpack_from(data)[0] if is_linux else 0
    image = images.add(name, base, data, size=max(needed, len(data)))
    return Loaded(image.start, image.end, is_linux=is_linux)


def _load_elf(images: ImageSet, name: str, stream: IO[bytes]) -> Loaded:
    """Place the PT_LOAD segments of an ELF executable."""
    # pyelftools takes longer to import than the rest of a machine takes to start, and only ELF files need it.
    from elftools.elf.structs import ELFStructs

    file_size = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    ident = stream.read(_ELF_HEADER_SIZE)
    if len(ident) < _ELF_HEADER_SIZE:
        raise ImageError(f"{name} is truncated: {len(ident)} bytes are no ELF header")
    if ident[_ELF_DATA_AT] != _ELF_LITTLE_ENDIAN:
        raise ImageError(f"{name} is not a little-endian ELF file")
    if ident[_ELF_CLASS_AT] != _ELF_CLASS_64:
        raise ImageError(f"{name} is not a 64-bit ELF file")
    structs = ELFStructs(little_endian=True, elfclass=64)
    structs.create_basic_structs()
    structs.create_advanced_structs(e_type="ET_EXEC", e_machine="EM_RISCV")
    header = structs.Elf_Ehdr.parse(ident)
    _check_elf_header(header, name, file_size)
    segments = list(_segments(structs, header, stream))
    if not segments:
        raise ImageError(f"{name} has no segment to load (PT_LOAD)")
    for index, segment in segments:
        _place_segment(images, f"{name} segment {index}", segment, stream, file_size)
    starts = [segment.p_paddr for _index, segment in segments]
    ends = [segment.p_paddr + segment.p_memsz for _index, segment in segments]
    return Loaded(min(starts), max(ends), _physical_entry(header.e_entry, [segment for _index, segment in segments]))


def _check_elf_header(header: Any, name: str, file_size: int) -> None:
    if header.e_machine != "EM_RISCV":
        raise ImageError(f"{name} is an ELF file for {header.e_machine}, not for EM_RISCV")
    if header.e_type not in ("ET_EXEC", "ET_DYN"):
        raise ImageError(f"{name} is not an ELF executable but {header.e_type}")
    if not header.e_phnum:
        raise ImageError(f"{name} has no program headers, so nothing to load")
    if header.e_phnum > MAX_PROGRAM_HEADERS or header.e_phentsize != _PROGRAM_HEADER_SIZE:
        raise ImageError(f"{name} claims {header.e_phnum} program headers of {header.e_phentsize} bytes")
    if header.e_phoff + header.e_phnum * _PROGRAM_HEADER_SIZE > file_size:
        raise ImageError(f"{name} is truncated: its program headers lie behind its end")


def _segments(structs: ELFStructs, header: Any, stream: IO[bytes]) -> Iterator[tuple[int, Any]]:
    """The segments that take memory, with their numbers."""
    stream.seek(header.e_phoff)
    for index in range(header.e_phnum):
        segment = structs.Elf_Phdr.parse(stream.read(_PROGRAM_HEADER_SIZE))
        if segment.p_type == "PT_LOAD" and segment.p_memsz:
            yield index, segment


def _place_segment(images: ImageSet, name: str, segment: Any, stream: IO[bytes], file_size: int) -> None:
    if segment.p_filesz > segment.p_memsz:
        raise ImageError(f"{name} has 0x{segment.p_filesz:x} bytes in the file but 0x{segment.p_memsz:x} in memory")
    if segment.p_offset + segment.p_filesz > file_size:
        raise ImageError(
            f"{name} is truncated: it ends 0x{segment.p_offset + segment.p_filesz - file_size:x} bytes early"
        )
    images.check(name, segment.p_paddr, segment.p_memsz)
    stream.seek(segment.p_offset)
    images.add(name, segment.p_paddr, stream.read(segment.p_filesz), size=segment.p_memsz)


def _physical_entry(entry: int, segments: list[Any]) -> int | None:
    """The entry point, a virtual address, as a physical one; None if no segment holds it."""
    for segment in segments:
        if segment.p_vaddr <= entry < segment.p_vaddr + segment.p_filesz:
            return int(entry - segment.p_vaddr + segment.p_paddr)
    return None
