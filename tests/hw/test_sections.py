"""The devices' sections as QEMU 7.2 sends them: bytes and descriptions that it wrote, and what is refused of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from emulator.core.bus import AddressMap
from emulator.core.charport import CharPort
from emulator.core.clock import VirtualClock
from emulator.core.device import Device
from emulator.core.irq import IrqLine
from emulator.core.memory import RamBlock
from emulator.hw.fw_cfg import FwCfg
from emulator.hw.goldfish_rtc import GoldfishRtc
from emulator.hw.gpex import Gpex
from emulator.hw.ns16550a import Ns16550a
from emulator.hw.pflash_cfi01 import PflashCfi01
from emulator.hw.riscv_aclint import RiscvAclintMtimer, RiscvAclintSwi
from emulator.hw.sifive_plic import SifivePlic
from emulator.hw.sifive_test import SifiveTest
from emulator.hw.virtio_mmio import VirtioMmio
from emulator.migration.errors import StateError, StreamError
from emulator.migration.vmdesc import save_section
from emulator.migration.wire import Reader, Writer

Json = dict[str, Any]


def wire(text: str) -> bytes:
    """The bytes of a table with one field a line: hexadecimal digits, perhaps `* times`, then ` | ` and what it is."""
    data = b""
    for line in text.strip().splitlines():
        digits, _, times = line.partition("|")[0].partition("*")
        data += bytes.fromhex(digits) * int(times or 1)
    return data


def entry(name: str, type_name: str, size: int, count: int = 0) -> Json:
    """A field in a stream's description of itself."""
    return {"name": name} | ({"array_len": count} if count else {}) | {"type": type_name, "size": size}


def struct(name: str, vmsd_name: str, version: int, size: int, *fields: Json) -> Json:
    """A field that is a struct."""
    nested = {"vmsd_name": vmsd_name, "version": version, "fields": list(fields)}
    return {"name": name, "type": "struct", "struct": nested, "size": size}


def subsection(vmsd_name: str, version: int, *fields: Json) -> Json:
    return {"vmsd_name": vmsd_name, "version": version, "fields": list(fields)}


@dataclass(frozen=True, slots=True)
class Sample:
    """A section that QEMU has written."""

    device: str
    section: str
    version: int
    text: str
    fields: tuple[Json, ...]
    subsections: tuple[Json, ...] = ()


FIFO = (entry("data", "buffer", 16), entry("head", "uint32", 4), entry("num", "uint32", 4))
SERIAL_FIELDS = (
    entry("divider", "uint16", 2),
    *(entry(name, "uint8", 1) for name in "rbr ier iir lcr mcr lsr msr scr fcr_vmstate".split()),
)
PLIC_FIELDS = (
    entry("source_priority", "uint32", 4, 96),
    entry("target_priority", "uint32", 4, 2),
    entry("pending", "uint32", 4, 3),
    entry("claimed", "uint32", 4, 3),
    entry("enable", "uint32", 4, 6),
)
PFLASH_FIELDS = (*(entry(name, "uint8", 1) for name in ("wcycle", "cmd", "status")), entry("counter", "uint64", 8))
SAMPLES = {
    "mtimer": Sample(
        "mtimer", "riscv_mtimer", 1, "0000000000992b20 | timecmp of hart 0", (entry("timecmp", "uint64", 8),)
    ),
    "plic": Sample(
        "plic",
        "riscv_sifive_plic",
        1,
        """
        00000000                   | priority of source 0, which does not exist
        00000003                   | of source 1
        00000000 * 8
        00000007                   | of source 10
        00000000 * 85
        00000002 00000005          | thresholds of contexts 0 and 1
        00000400 00000000 00000000 | pending: source 10
        00000400 00000000 00000000 | claimed: source 10, which its line has raised again
        ffffffff 00000000 00000000 | enabled in context 0: all up to 31, and bit 0, which is no source
        00000000 80000001 00000000 | enabled in context 1: 32 and 63
        """,
        PLIC_FIELDS,
    ),
    "gpex_root": Sample(
        "gpex",
        "0000:00:00.0/gpex_root",
        1,
        """
        00000002         | version of the layout
        361b 0800        | vendor, device
        0705 0000        | command, status
        00 00 0006       | revision, class: host bridge
        10 00 00 00      | cache line size, latency timer, header type, BIST
        00 * 28          | base address registers, CardBus
        f41a 0011        | subsystem
        00 * 12
        42 00 00 00      | interrupt line and pin, latencies
        efbeadde         | behind the header whatever the guest likes
        00 * 188
        00000000 * 4     | interrupt pins
        """,
        (
            struct(
                "parent_obj",
                "PCIDevice",
                2,
                276,
                entry("version_id", "int32 le", 4),
                entry("config[0]", "pci config", 256),
                entry("irq_state", "pci irq state", 16),
            ),
        ),
    ),
    "pci_host": Sample("gpex", "PCIHost", 1, "00000000 | config_reg", (entry("config_reg", "uint32", 4),)),
    "pci_bus": Sample(
        "gpex",
        "PCIBUS",
        1,
        "00000004 | nirq\n 00000000 * 4 | irq_count",
        (entry("nirq", "int32 equal", 4), entry("irq_count", "int32", 4, 4)),
    ),
    "serial": Sample(
        "serial",
        "serial",
        3,
        """
        000c           | divider
        00 00 01       | rbr, ier, iir: no interrupt
        00 08          | lcr, mcr: OUT2
        60 b0          | lsr: transmitter empty; msr: carrier, data set ready, clear to send
        00 00          | scr, fcr
        """,
        (struct("serial", "serial", 3, 11, *SERIAL_FIELDS),),
    ),
    "serial_fifo": Sample(
        "serial",
        "serial",
        3,
        """
        0001           | divider
        00 05 c1       | rbr, ier, iir: FIFOs enabled
        03 1b          | lcr: eight bits; mcr: loop-back
        61 b0          | lsr: data ready
        00 41          | scr, fcr: FIFOs enabled, trigger at 4
        05 10 73657269616c2f726563765f6669666f 00000001  | serial/recv_fifo
        6162636465 00 * 1                                | data: ab have been read
        00 * 10
        00000002 00000003                                | head, num
        05 19 73657269616c2f6669666f5f74696d656f75745f74696d6572 00000001  | serial/fifo_timeout_timer
        0000000000018768                                 | deadline
        """,
        (
            {
                "name": "serial",
                "type": "struct",
                "struct": {
                    "vmsd_name": "serial",
                    "version": 3,
                    "fields": list(SERIAL_FIELDS),
                    "subsections": [
                        subsection("serial/recv_fifo", 1, struct("recv_fifo", "Fifo8", 1, 24, *FIFO)),
                        subsection("serial/fifo_timeout_timer", 1, entry("fifo_timeout_timer", "timer", 8)),
                    ],
                },
                "size": 96,
            },
        ),
    ),
    "serial_thr": Sample(
        "serial",
        "serial",
        3,
        """
        000c           | divider
        55 03 04       | rbr, ier, iir: data, which hides the transmitter's interrupt
        00 10          | lcr, mcr: loop-back
        61 b0          | lsr: data ready, transmitter empty
        00 00          | scr, fcr
        05 13 73657269616c2f7468725f6970656e64696e67 00000001  | serial/thr_ipending
        00000001
        """,
        (
            {
                "name": "serial",
                "type": "struct",
                "struct": {
                    "vmsd_name": "serial",
                    "version": 3,
                    "fields": list(SERIAL_FIELDS),
                    "subsections": [subsection("serial/thr_ipending", 1, entry("thr_ipending", "int32", 4))],
                },
                "size": 40,
            },
        ),
    ),
    "rtc": Sample(
        "rtc",
        "goldfish_rtc",
        3,
        """
        0000000000000000  | tick_offset_vmstate
        7fffffff89abcdef  | alarm_next
        00000001 00000000 | alarm_running, irq_pending
        00000001 00000000 | irq_enabled, time_high
        ffffffffd958d008  | tick_offset: 0.65 s behind the wall clock
        """,
        (
            entry("tick_offset_vmstate", "uint64", 8),
            entry("alarm_next", "uint64", 8),
            *(entry(name, "uint32", 4) for name in "alarm_running irq_pending irq_enabled time_high".split()),
            entry("tick_offset", "uint64", 8),
        ),
    ),
    "pflash": Sample(
        "pflash", "pflash_cfi01", 1, "00 00 80 | wcycle, cmd, status\n 0000000000000000 | counter", PFLASH_FIELDS
    ),
    "pflash_write": Sample(
        "pflash",
        "pflash_cfi01",
        1,
        """
        02 e8 80         | wcycle, cmd, status
        0000000000000001 | counter: two words to come
        05 16 70666c6173685f63666930315f626c6b5f7772697465 00000001 | pflash_cfi01_blk_write
        04030201         | blk_bytes
        00 * 4088
        f3f2f1f0
        00001000         | blk_offset
        """,
        PFLASH_FIELDS,
        (
            subsection(
                "pflash_cfi01_blk_write", 1, entry("blk_bytes", "buffer", 4096), entry("blk_offset", "uint32", 4)
            ),
        ),
    ),
    "fw_cfg": Sample(
        "fw_cfg",
        "fw_cfg",
        2,
        """
        0001 00000002    | cur_entry, cur_offset
        05 0a 66775f6366672f646d61 00000000 | fw_cfg/dma
        1234567800000000 | dma_addr: its upper half
        """,
        (entry("cur_entry", "uint16", 2), entry("cur_offset[1]", "uint32", 4)),
        (subsection("fw_cfg/dma", 0, entry("dma_addr", "uint64", 8)),),
    ),
}


@pytest.fixture
def devices() -> Iterator[dict[str, Device]]:
    clock = VirtualClock()
    flash = RamBlock("virt.flash0", 0x80000)
    yield {
        "mtimer": RiscvAclintMtimer(clock, [IrqLine()]),
        "plic": SifivePlic([IrqLine(), IrqLine()]),
        "gpex": Gpex([IrqLine() for _ in range(4)]),
        "serial": Ns16550a(IrqLine(), clock, CharPort()),
        "rtc": GoldfishRtc(IrqLine(), clock, lambda: 0),
        "pflash": PflashCfi01(flash, on_mode_change=lambda _mode: None),
        "fw_cfg": FwCfg(AddressMap(), {}, {}),
    }
    flash.close()


@pytest.mark.parametrize("sample", SAMPLES.values(), ids=SAMPLES)
def test_what_qemu_sends_is_loaded_and_sent_back_unchanged(sample: Sample, devices: dict[str, Device]) -> None:
    device, data = devices[sample.device], wire(sample.text)
    description = device.vmstate[sample.section]
    reader, writer = Reader(data), Writer()
    state = description.load(reader, sample.version, device.fresh())
    assert reader.remaining == 0
    device.check(state)
    section = save_section(description, state, writer, name=sample.section, instance_id=0)
    assert writer.data.hex() == data.hex()
    expected: Json = {"name": sample.section, "instance_id": 0, "vmsd_name": description.name}
    expected |= {"version": sample.version, "fields": list(sample.fields)}
    if sample.subsections:
        expected["subsections"] = list(sample.subsections)
    assert section == expected


def test_sections_come_in_qemus_order() -> None:
    kinds = (RiscvAclintMtimer, SifivePlic, Gpex, Ns16550a, GoldfishRtc, PflashCfi01, FwCfg)
    names = "riscv_mtimer riscv_sifive_plic 0000:00:00.0/gpex_root PCIHost PCIBUS serial goldfish_rtc pflash_cfi01"
    assert [name for kind in kinds for name in kind.vmstate] == [*names.split(), "fw_cfg"]


@pytest.mark.parametrize("kind", [RiscvAclintSwi, SifiveTest, VirtioMmio])
def test_devices_without_a_section_in_qemu_have_none(kind: type[Device]) -> None:
    assert kind.vmstate == {}


# References


def test_loaded_fifo_refers_to_its_own_ring(devices: dict[str, Device]) -> None:
    state = devices["serial"].vmstate["serial"].load(Reader(wire(SAMPLES["serial_fifo"].text)))
    assert state.recv_fifo.head.ring is state.recv_fifo.ring
    assert bytes(state.recv_fifo.pop() for _ in range(3)) == b"cde"
    assert state.recv_fifo.head.offset == 0
    assert state.recv_fifo.ring == b"ab" + bytes(14)


def test_loaded_plic_has_its_own_sources_in_service(devices: dict[str, Device]) -> None:
    plic = devices["plic"]
    state = plic.vmstate["riscv_sifive_plic"].load(Reader(wire(SAMPLES["plic"].text)), None, plic.fresh())
    (source,) = state.in_service
    assert source is state.sources[10]
    assert (source.priority, state.pending, state.target_priority) == (7, 1 << 10, [2, 5])
    assert state.enable == [0xFFFFFFFF, 1 << 32 | 1 << 63]


# What QEMU's wire does not tell


def test_time_that_the_guest_has_written_goes_along(devices: dict[str, Device]) -> None:
    mtimer, writer = devices["mtimer"], Writer()
    mtimer.regions[0].write(0x7FF8, 8, 0x1234)
    mtimer.vmstate["riscv_mtimer"].save(mtimer.state, writer)
    assert writer.data == wire(
        """
        0000000000000000 | timecmp
        05 17 72697363765f6d74696d65722f74696d655f64656c7461 00000001 | riscv_mtimer/time_delta
        0000000000001234
        """
    )
    assert mtimer.vmstate["riscv_mtimer"].load(Reader(writer.data)) == mtimer.state


def test_alarm_that_was_armed_for_another_time_goes_along(devices: dict[str, Device]) -> None:
    rtc, writer = devices["rtc"], Writer()
    region = rtc.regions[0]
    region.write(0x08, 4, 1000)
    region.write(0x00, 4, 300)
    rtc.vmstate["goldfish_rtc"].save(rtc.state, writer)
    assert writer.data == wire(
        """
        0000000000000000 | tick_offset_vmstate
        00000000000003e8 | alarm_next
        00000001 00000000 | alarm_running, irq_pending
        00000000 00000000 | irq_enabled, time_high
        000000000000012c | tick_offset
        05 12 676f6c64666973685f7274632f61726d6564 00000001 | goldfish_rtc/armed
        00000000000003e8 | armed_next
        0000000000000000 | armed_offset
        """
    )
    assert rtc.vmstate["goldfish_rtc"].load(Reader(writer.data)) == rtc.state


# Older peers


def test_fw_cfg_of_version_1_has_a_short_offset(devices: dict[str, Device]) -> None:
    state = devices["fw_cfg"].vmstate["fw_cfg"].load(Reader(wire("0019 8001 | cur_entry, cur_offset")), 1)
    assert (state.cur_entry, state.cur_offset) == (0x19, 0x8001)


@pytest.mark.parametrize(("name", "version"), [("rtc", 2), ("rtc", 4), ("serial", 1), ("plic", 0), ("pci_host", 2)])
def test_other_versions_are_refused(name: str, version: int, devices: dict[str, Device]) -> None:
    sample = SAMPLES[name]
    with pytest.raises(StreamError, match=f"got {version}$"):
        devices[sample.device].vmstate[sample.section].load(Reader(wire(sample.text)), version)


# What is refused

EMPTY, LAST, WAITS = 0x60, 0x20, "05 0a 73657269616c2f747372 00000001 00000001 00 61"
"""Line status with nothing to send, with the last byte in TSR, and subsection serial/tsr with that byte."""


def serial(*, fcr: int = 0, lsr: int = EMPTY, behind: str = "") -> str:
    """A UART's section with this FIFO control and line status, and some subsections."""
    return f"000c 00 00 01 00 08 {lsr:02x} b0 00 {fcr:02x} {behind}"


def fifo(name: str, *, head: int = 0, num: int = 1) -> str:
    """A FIFO's subsection."""
    name = f"serial/{name}"
    return f"05 {len(name):02x} {name.encode().hex()} 00000001 {'00' * 16} {head:08x} {num:08x}"


def changed(name: str, offset: int, digits: str) -> str:
    """One of QEMU's samples with other bytes in one place."""
    data = bytearray(wire(SAMPLES[name].text))
    data[offset : offset + len(digits) // 2] = bytes.fromhex(digits)
    return data.hex()


REFUSED = [
    ("plic", changed("plic", 0, "00000001"), "source_priority[0] at byte 0x1b8: expected 0 to 0, got 1"),
    ("plic", changed("plic", 4, "00000008"), "source_priority[1]: expected 0 to 7, got 8"),
    ("plic", changed("plic", 384, "ffffffff"), "target_priority[0]: expected 0 to 7, got 4294967295"),
    ("plic", changed("plic", 392, "01"), None),
    ("plic", changed("plic", 395, "01"), "pending[0] at byte 0x1b8: expected sources 1 to 95 only, got source 0"),
    ("plic", changed("plic", 407, "01"), "claimed[0] at byte 0x1b8: expected sources 1 to 95 only, got source 0"),
    (
        "gpex_root",
        changed("gpex_root", 0, "00000003"),
        "parent_obj.version_id at byte 0x0: expected 0 to 2, got 3",
    ),
    (
        "gpex_root",
        changed("gpex_root", 6, "09"),
        "parent_obj.config[2] at byte 0x6: expected 0x08, as it is here, got 0x09",
    ),
    ("gpex_root", changed("gpex_root", 18, "80"), "parent_obj.config[14] at byte 0x12: expected 0x00, as it is here"),
    ("gpex_root", changed("gpex_root", 50, "ff"), None),
    ("gpex_root", changed("gpex_root", 263, "02"), "parent_obj.irq_state[0] at byte 0x104: expected 0 to 1, got 2"),
    ("pci_bus", changed("pci_bus", 3, "05"), "nirq at byte 0x0: expected 4, as it is here, got 5"),
    ("pci_bus", changed("pci_bus", 4, "ffffffff"), "irq_count[0] at byte 0x4: expected 0 to 1, got -1"),
    ("serial", serial(), None),
    ("serial", serial(fcr=2), "serial.fcr_vmstate at byte 0xa: expected no bits but 0xc9, got 0x2"),
    ("serial", serial(fcr=1, behind=fifo("recv_fifo", head=15, num=16)), None),
    ("serial", serial(fcr=1, behind=fifo("recv_fifo", head=16)), "recv_fifo.head at byte 0x31: expected 0 to 15"),
    ("serial", serial(fcr=1, behind=fifo("recv_fifo", num=17)), "recv_fifo.num at byte 0x35: expected 0 to 16"),
    ("serial", serial(lsr=0), "serial.lsr at byte 0xb: expected an empty transmitter, as no byte waits"),
    ("serial", serial(fcr=1, behind=fifo("xmit_fifo")), "serial.lsr at byte 0x39: expected an empty transmitter"),
    ("serial", serial(behind=WAITS), "serial.lsr at byte 0x21: expected a busy transmitter"),
    ("serial", serial(lsr=LAST, behind=WAITS), None),
    ("serial", serial(fcr=1, lsr=LAST, behind=WAITS), None),
    ("serial", serial(fcr=1, lsr=0, behind=WAITS), "serial.lsr at byte 0x21: expected THRE to say whether the FIFO"),
    ("serial", serial(fcr=1, lsr=0, behind=WAITS + fifo("xmit_fifo")), None),
    ("serial", serial(fcr=1, lsr=LAST, behind=WAITS + fifo("xmit_fifo")), "it holds 1, got 0x20"),
    ("rtc", changed("rtc", 19, "02"), "alarm_running at byte 0x10: expected 0 to 1, got 2"),
    ("pflash", changed("pflash", 0, "04"), "wcycle at byte 0x0: expected 0 to 3, got 4"),
    ("pflash_write", changed("pflash_write", 4138, "01"), "blk_offset at byte 0x1027: expected no bits but 0xfffff000"),
    ("pflash_write", changed("pflash_write", 4135, "0007f000"), None),
    ("pflash_write", changed("pflash_write", 4135, "00080000"), "blk_offset: expected 0 to 524287, got 0x80000"),
    ("pflash_write", changed("pflash_write", 4135, "ffffffff"), "blk_offset at byte 0x1027: expected no bits but"),
    ("fw_cfg", changed("fw_cfg", 0, "ffff"), None),
    ("fw_cfg", changed("fw_cfg", 0, "c03f"), None),
    ("fw_cfg", changed("fw_cfg", 0, "0040"), "cur_entry at byte 0x1e: expected a key that can be selected, got 0x40"),
    (
        "fw_cfg",
        changed("fw_cfg", 8, "66775f6366672f646d62"),
        "at byte 0x6: expected a subsection that fw_cfg has, got fw_cfg/dmb",
    ),
]


@pytest.mark.parametrize(("name", "text", "why"), REFUSED)
def test_what_the_chip_cannot_be_in_is_refused(
    name: str, text: str, why: str | None, devices: dict[str, Device]
) -> None:
    sample = SAMPLES[name]
    device = devices[sample.device]

    def load() -> None:
        device.check(device.vmstate[sample.section].load(Reader(wire(text)), sample.version, device.fresh()))

    if why is None:
        load()
        return
    with pytest.raises(StreamError) as caught:
        load()
    assert why in str(caught.value)


def test_saved_states_have_the_same_bounds(devices: dict[str, Device]) -> None:
    state = devices["serial"].fresh()
    state.tsr_retry = 5
    with pytest.raises(StateError, match=r"cannot save serial\.serial/tsr\.tsr_retry: expected 0 to 4, got 5"):
        devices["serial"].vmstate["serial"].save(state, Writer())
