"""What the board tests share: files made up byte by byte, and real QEMU as an oracle."""

from __future__ import annotations

import shutil
import struct
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

RAM_BASE = 0x80000000


@pytest.fixture
def make_elf() -> Callable[..., bytes]:
    """A 64-bit little-endian RISC-V executable from (physical address, data[, size in memory]) segments."""

    def make(*segments: tuple, entry: int = RAM_BASE, virtual_offset: int = 0, **fields: int) -> bytes:
        ident = bytes([0x7F, *b"ELF", fields.get("elf_class", 2), fields.get("elf_data", 1), 1]).ljust(16, b"\0")
        header = struct.pack(
            "<HHIQQQIHHHHHH",
            fields.get("e_type", 2),
            fields.get("e_machine", 243),
            1,
            entry,
            fields.get("e_phoff", 64),
            0,
            0,
            64,
            fields.get("e_phentsize", 56),
            fields.get("e_phnum", len(segments)),
            64,
            0,
            0,
        )
        position, table, body = 64 + 56 * len(segments), b"", b""
        for address, data, *rest in segments:
            memsz = rest[0] if rest else len(data)
            offset, filesz = fields.get("p_offset", position + len(body)), fields.get("p_filesz", len(data))
            table += struct.pack(
                "<IIQQQQQQ", fields.get("p_type", 1), 5, offset, address + virtual_offset, address, filesz, memsz, 1
            )
            body += data
        return ident + header + table + body

    return make


@pytest.fixture
def in_file(tmp_path: Path) -> Callable[..., Path]:
    """Put bytes into a file of the given name."""

    def write(data: bytes, name: str = "image") -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return write


@pytest.fixture
def walk_tree() -> Callable[[bytes], list[tuple]]:
    """Flatten a device tree blob into (path, property, value) in its own order; nodes have the property None."""

    def walk(blob: bytes) -> list[tuple]:
        position, strings = struct.unpack_from(">II", blob, 8)
        path: list[str] = []
        found = []
        while True:
            (token,) = struct.unpack_from(">I", blob, position)
            position += 4
            if token == 1:
                name = blob[position : blob.index(b"\0", position)]
                position += (len(name) + 4) & ~3
                path.append(name.decode())
                found.append(("/".join(path), None, None))
            elif token == 2:
                path.pop()
            elif token == 3:
                length, name_at = struct.unpack_from(">II", blob, position)
                name = blob[strings + name_at : blob.index(b"\0", strings + name_at)].decode()
                found.append(("/".join(path), name, blob[position + 8 : position + 8 + length]))
                position += (8 + length + 3) & ~3
            elif token == 9:
                return found

    return walk


class QemuBoard:
    """A stopped qemu-system-riscv64 whose memory can be read, before its first instruction."""

    def __init__(self, *options: str) -> None:
        command = ["qemu-system-riscv64", "-M", "virt", "-cpu", "sifive-u54", "-nodefaults", "-display", "none", "-S"]
        self.process = subprocess.Popen(
            [*command, "-qtest", "stdio", "-qtest-log", "none", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def command(self, line: str) -> str:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer.startswith("OK"), answer
        return answer[2:].strip()

    def read(self, address: int, length: int) -> bytes:
        return bytes.fromhex(self.command(f"read 0x{address:x} 0x{length:x}")[2:])

    def device_tree(self) -> tuple[int, bytes]:
        (address,) = struct.unpack("<Q", self.read(0x1020, 8))
        (size,) = struct.unpack(">I", self.read(address + 4, 4))
        return address, self.read(address, size)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def qemu_board() -> Iterator[Callable[..., QemuBoard]]:
    """Start real QEMU's board with these options."""
    if shutil.which("qemu-system-riscv64") is None:
        pytest.skip("needs qemu-system-riscv64 (Debian: apt install qemu-system-misc)")
    started = []

    def start(*options: str) -> QemuBoard:
        started.append(QemuBoard(*options))
        return started[-1]

    yield start
    for board in started:
        board.close()
