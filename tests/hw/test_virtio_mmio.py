import pytest

from emulator.core.irq import IrqLine
from emulator.hw.virtio_mmio import VirtioMmio, VirtioMmioState

BASE = 0x10001000
MAGIC = 0x74726976
VENDOR = 0x554D4551


def read(chip: VirtioMmio, offset: int, size: int = 4) -> int:
    (region,) = chip.regions
    assert region.accepts(offset, size)
    return region.read(offset, size)


def test_identification_registers_are_those_of_an_empty_legacy_transport() -> None:
    chip = VirtioMmio(IrqLine())
    assert [read(chip, offset) for offset in (0x0, 0x4, 0x8, 0xC)] == [MAGIC, 1, 0, VENDOR]


def test_modern_transport_says_version_2() -> None:
    assert read(VirtioMmio(IrqLine(), force_legacy=False), 0x4) == 2


def test_everything_else_reads_as_zero() -> None:
    chip = VirtioMmio(IrqLine())
    assert {read(chip, offset) for offset in range(0x10, 0x200, 4)} == {0}


def test_writes_change_nothing_and_raise_no_interrupt() -> None:
    irq = IrqLine()
    chip = VirtioMmio(irq)
    before = [read(chip, offset) for offset in range(0, 0x200, 4)]
    for offset in range(0, 0x200, 4):
        chip.regions[0].write(offset, 4, 0xFFFFFFFF)
    assert [read(chip, offset) for offset in range(0, 0x200, 4)] == before
    assert not irq.level


def test_narrow_read_takes_the_low_bytes_and_sees_nothing_inside_a_register() -> None:
    chip = VirtioMmio(IrqLine())
    assert [read(chip, 0, 1), read(chip, 1, 1), read(chip, 0, 2), read(chip, 2, 2)] == [0x76, 0, 0x6976, 0]


def test_double_word_read_covers_two_registers() -> None:
    chip = VirtioMmio(IrqLine())
    assert read(chip, 0, 8) == 1 << 32 | MAGIC
    assert read(chip, 8, 8) == VENDOR << 32


def test_adopting_a_state_lowers_the_line_without_an_edge() -> None:
    irq, edges = IrqLine(), []
    irq.set(True)
    irq.connect(edges.append)
    VirtioMmio(irq).adopt(VirtioMmioState())
    assert not irq.level
    assert edges == []


@pytest.mark.qemu
@pytest.mark.parametrize("force_legacy", [True, False])
def test_reads_like_qemu_at_every_offset_and_size(start_real_board, force_legacy: bool) -> None:
    board = start_real_board("-global", f"virtio-mmio.force-legacy={'on' if force_legacy else 'off'}")
    chip = VirtioMmio(IrqLine(), force_legacy=force_legacy)
    board.store(BASE + 0x70, 4, 0xFFFFFFFF)
    for size in (1, 2, 4, 8):
        for offset in range(0, 0x200, size):
            assert read(chip, offset, size) == board.load(BASE + offset, size), (offset, size)
