"""The device tree that the board hands to its guest: what QEMU 7.2 generates for `virt`, node for node.

Bindings: the Linux kernel's Documentation/devicetree/bindings. The tables below stand in the order in which QEMU's
tree has its nodes and properties. `/chosen` gets the parts that depend on the boot (command line, seed, initrd) as
edits, so that a tree from a file gets them in the same way.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TypeAlias

import fdt

from emulator.boards import flattree, layout
from emulator.boards.config import BoardConfig
from emulator.core.bits import mask

Value: TypeAlias = "str | tuple[str, ...] | int | tuple[int, ...] | Mapping[str, Value]"
"""Text, several texts, a cell, several cells (none: an empty property), or a node."""

EMPTY: tuple[int, ...] = ()
HART_INTERRUPTS = {"M software": 3, "M timer": 7, "M external": 11, "S external": 9}
"""RISC-V Privileged Architecture: the exception codes of the interrupts."""
PMU_EVENTS = (
    *(1, 1, 0xFFFFFFF9),  # cycles
    *(2, 2, 0xFFFFFFFC),  # instructions retired
    *(0x10019, 0x10019, 0xFFFFFFF8),  # data TLB read misses
    *(0x1001B, 0x1001B, 0xFFFFFFF8),  # data TLB write misses
    *(0x10021, 0x10021, 0xFFFFFFF8),  # instruction TLB read misses
    *(0, 0, 0, 0, 0),  # five cells that QEMU 7.2 leaves blank
)
"""`riscv,event-to-mhpmcounters` (SBI PMU extension): first event, last event, bit mask of counters."""

_PCI_SPACE_PIO, _PCI_SPACE_MMIO32, _PCI_SPACE_MMIO64 = 0x1000000, 0x2000000, 0x3000000


def build(config: BoardConfig) -> bytes:
    """The board's own tree, serialised, with `/chosen` as it is before `set_boot_arguments`."""
    tree = fdt.FDT(entries=[])  # its default list is shared by all trees
    tree.header.version = flattree.VERSION
    tree.root = _node("/", describe(config))
    return bytes(tree.to_dtb())


def set_boot_arguments(tree: flattree.FlatTree, *, append: str, seed: bytes, initrd: tuple[int, int] | None) -> None:
    """Write into `/chosen` what the boot decides; `initrd` is its first address and the one behind its last."""
    if append:
        tree.set_chosen("bootargs", append.encode("utf-8", "surrogateescape") + b"\0")
    tree.set_chosen("rng-seed", seed)
    if initrd is not None:
        cell = 4 if initrd[1] <= mask(32) else 8
        tree.set_chosen("linux,initrd-start", initrd[0].to_bytes(cell, "big"))
        tree.set_chosen("linux,initrd-end", initrd[1].to_bytes(cell, "big"))


def describe(config: BoardConfig) -> dict[str, Value]:
    """The root node's contents."""
    handles = itertools.count(1)
    harts = [(next(handles), next(handles)) for _ in range(config.smp)][::-1]
    plic, test = next(handles), next(handles)
    ram = layout.dram(config.ram_size)
    return {
        "#address-cells": 2,
        "#size-cells": 2,
        "compatible": "riscv-virtio",
        "model": "riscv-virtio,qemu",
        "pmu": {"riscv,event-to-mhpmcounters": PMU_EVENTS, "compatible": "riscv,pmu"},
        _at("fw-cfg", layout.FW_CFG): {
            "dma-coherent": EMPTY,
            "reg": _reg(layout.FW_CFG),
            "compatible": "qemu,fw-cfg-mmio",
        },
        _at("flash", layout.FLASH): {
            "bank-width": 4,
            "reg": _reg(*layout.FLASH_BANKS),
            "compatible": "cfi-flash",
        },
        "chosen": {"stdout-path": "/soc/" + _at("serial", layout.UART0)},
        "poweroff": {"value": 0x5555, "offset": 0, "regmap": test, "compatible": "syscon-poweroff"},
        "reboot": {"value": 0x7777, "offset": 0, "regmap": test, "compatible": "syscon-reboot"},
        _at("platform-bus", layout.PLATFORM_BUS): {
            "interrupt-parent": plic,
            "ranges": (0, *_cells(layout.PLATFORM_BUS.base), layout.PLATFORM_BUS.size),
            "#address-cells": 1,
            "#size-cells": 1,
            "compatible": ("qemu,platform", "simple-bus"),
        },
        _at("memory", ram): {"device_type": "memory", "reg": _reg(ram)},
        "cpus": _cpus(config, harts),
        "soc": _soc(config, [interrupt_controller for _cpu, interrupt_controller in harts], plic, test),
    }


def _cpus(config: BoardConfig, harts: list[tuple[int, int]]) -> dict[str, Value]:
    cores: dict[str, Value] = {f"core{hart}": {"cpu": cpu} for hart, (cpu, _) in enumerate(harts)}
    return {
        "#address-cells": 1,
        "#size-cells": 0,
        "timebase-frequency": layout.TIMEBASE_HZ,
        **{
            f"cpu@{hart:x}": {
                "phandle": cpu,
                "device_type": "cpu",
                "reg": hart,
                "status": "okay",
                "compatible": "riscv",
                "riscv,isa": config.isa,
                "mmu-type": config.mmu_type,
                "interrupt-controller": {
                    "#interrupt-cells": 1,
                    "interrupt-controller": EMPTY,
                    "compatible": "riscv,cpu-intc",
                    "phandle": interrupt_controller,
                },
            }
            for hart, (cpu, interrupt_controller) in enumerate(harts)
        },
        "cpu-map": {"cluster0": cores},
    }


def _soc(config: BoardConfig, harts: list[int], plic: int, test: int) -> dict[str, Value]:
    """Devices below `/soc`; `harts` are the handles of the harts' own interrupt controllers."""

    def extended(*names: str) -> tuple[int, ...]:
        return tuple(cell for hart in harts for name in names for cell in (hart, HART_INTERRUPTS[name]))

    def raises(interrupt: int) -> dict[str, Value]:
        return {"interrupts": interrupt, "interrupt-parent": plic}

    virtio = [
        (layout.Window(layout.VIRTIO.base + index * layout.VIRTIO.size, layout.VIRTIO.size), layout.VIRTIO_IRQ + index)
        for index in reversed(range(layout.VIRTIO_COUNT))
    ]
    return {
        "#address-cells": 2,
        "#size-cells": 2,
        "compatible": "simple-bus",
        "ranges": EMPTY,
        _at("rtc", layout.RTC): {
            **raises(layout.RTC_IRQ),
            "reg": _reg(layout.RTC),
            "compatible": "google,goldfish-rtc",
        },
        _at("serial", layout.UART0): {
            **raises(layout.UART0_IRQ),
            "clock-frequency": layout.UART_CLOCK_HZ,
            "reg": _reg(layout.UART0),
            "compatible": "ns16550a",
        },
        _at("test", layout.TEST): {
            "phandle": test,
            "reg": _reg(layout.TEST),
            "compatible": ("sifive,test1", "sifive,test0", "syscon"),
        },
        _at("pci", layout.PCIE_ECAM): _pci(config, plic),
        **{
            _at("virtio_mmio", window): {**raises(interrupt), "reg": _reg(window), "compatible": "virtio,mmio"}
            for window, interrupt in virtio
        },
        _at("plic", layout.PLIC): {
            "phandle": plic,
            "riscv,ndev": layout.PLIC_SOURCES,
            "reg": _reg(layout.PLIC),
            "interrupts-extended": extended("M external", "S external"),
            "interrupt-controller": EMPTY,
            "compatible": ("sifive,plic-1.0.0", "riscv,plic0"),
            "#address-cells": 0,
            "#interrupt-cells": 1,
        },
        _at("clint", layout.CLINT): {
            "interrupts-extended": extended("M software", "M timer"),
            "reg": _reg(layout.CLINT),
            "compatible": ("sifive,clint0", "riscv,clint0"),
        },
    }


def _pci(config: BoardConfig, plic: int) -> dict[str, Value]:
    """The PCIe host; pin p of device d raises the interrupt (p + d) mod 4 of the host's four."""
    pins = range(layout.PCIE_PINS)
    high = layout.pcie_high_mmio(config.ram_size)
    return {
        "interrupt-map-mask": (0x1800, 0, 0, 7),
        "interrupt-map": tuple(
            cell
            for device, pin in itertools.product(pins, pins)
            for cell in (device << 11, 0, 0, pin + 1, plic, layout.PCIE_IRQ + (pin + device) % layout.PCIE_PINS)
        ),
        "ranges": (
            *(_PCI_SPACE_PIO, *_cells(0), *_reg(layout.PCIE_PIO)),
            *(_PCI_SPACE_MMIO32, *_cells(layout.PCIE_MMIO.base), *_reg(layout.PCIE_MMIO)),
            *(_PCI_SPACE_MMIO64, *_cells(high.base), *_reg(high)),
        ),
        "reg": _reg(layout.PCIE_ECAM),
        "dma-coherent": EMPTY,
        "bus-range": (0, 0xFF),
        "linux,pci-domain": 0,
        "device_type": "pci",
        "compatible": "pci-host-ecam-generic",
        "#size-cells": 2,
        "#interrupt-cells": 1,
        "#address-cells": 3,
    }


def _at(name: str, window: layout.Window) -> str:
    return f"{name}@{window.base:x}"


def _cells(value: int) -> tuple[int, int]:
    return value >> 32, value & mask(32)


def _reg(*windows: layout.Window) -> tuple[int, ...]:
    return tuple(cell for window in windows for number in window for cell in _cells(number))


def _node(name: str, contents: Mapping[str, Value]) -> fdt.Node:
    node = fdt.Node(name)
    for key, value in contents.items():
        node.append(_node(key, value) if isinstance(value, Mapping) else _property(key, value))
    return node


def _property(name: str, value: str | tuple[str, ...] | int | tuple[int, ...]) -> fdt.Property:
    values = value if isinstance(value, tuple) else (value,)
    if not values:
        return fdt.Property(name)
    return (fdt.PropStrings if isinstance(values[0], str) else fdt.PropWords)(name, *values)
