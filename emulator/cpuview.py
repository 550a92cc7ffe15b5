"""A hart seen from any thread: every look at it is one call on the machine's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from emulator.cpu.env import F_NAMES, X_NAMES
from emulator.cpu.mmu import PageMap
from emulator.cpu.vcpu import Vcpu

_ABI_NAMES = {name: f"{kind}{n}" for kind, names in (("x", X_NAMES), ("f", F_NAMES)) for n, name in enumerate(names)}


class CpuView:
    """One hart; `call` runs a function on the machine's thread and returns its result (`Machine.call`)."""

    def __init__(self, vcpu: Vcpu, call: Callable[[Callable[[], Any]], Any]) -> None:
        self._vcpu = vcpu
        self._call = call

    @property
    def pc(self) -> int:
        """The program counter."""
        return self["pc"]

    @pc.setter
    def pc(self, value: int) -> None:
        self["pc"] = value

    @property
    def privilege(self) -> int:
        """0 user, 1 supervisor, 3 machine."""
        return self["priv"]

    @property
    def halted(self) -> bool:
        """Waiting in `wfi`."""
        return bool(self._call(lambda: self._vcpu.halted))

    @property
    def xlen(self) -> int:
        """Register width in bits."""
        return self._vcpu.env.xlen

    def __getitem__(self, register: str) -> int:
        """A register by name: `x10` or `a0`, `f0`, `pc`, `mstatus` and so on; KeyError for any other."""
        name = _ABI_NAMES.get(register, register)
        value: int = self._call(lambda: self._vcpu.env[name])
        return value

    def __setitem__(self, register: str, value: int) -> None:
        name = _ABI_NAMES.get(register, register)
        self._call(lambda: self._vcpu.env.__setitem__(name, value))

    def registers(self) -> dict[str, int]:
        """All that `info registers` shows, in its order."""
        registers: dict[str, int] = self._call(self._vcpu.registers)
        return registers

    def page_map(self) -> PageMap | None:
        """What its page tables map; None while addresses are not translated."""
        found: PageMap | None = self._call(self._vcpu.page_map)
        return found

    def read_virtual(self, address: int, length: int) -> bytes:
        """Memory at a virtual address as the next instruction would see it; MemoryAccessError where there is none."""
        data: bytes = self._call(lambda: self._vcpu.read_virtual(address, length))
        return data
