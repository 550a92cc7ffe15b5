import pytest

from emulator.core.irq import IrqLine
from emulator.hw.gpex import Gpex, GpexState

ECAM = 0x30000000
ONES = 0xFFFFFFFF


@pytest.fixture
def chip() -> Gpex:
    return Gpex([IrqLine(f"int{pin}") for pin in "abcd"])


def read(chip: Gpex, offset: int, size: int = 4, window: int = 0) -> int:
    region = chip.regions[window]
    assert region.accepts(offset, size)
    return region.read(offset, size)


def write(chip: Gpex, offset: int, value: int, size: int = 4, window: int = 0) -> None:
    region = chip.regions[window]
    assert region.accepts(offset, size)
    region.write(offset, size, value)


def test_windows_have_the_sizes_of_the_board(chip: Gpex) -> None:
    assert [region.size for region in chip.regions] == [0x10000000, 0x40000000, 0x10000, 0x400000000]


def test_function_0_is_a_red_hat_host_bridge(chip: Gpex) -> None:
    assert read(chip, 0x00) == 0x00081B36
    assert read(chip, 0x08) == 0x06000000  # class 06, subclass 00, interface 00, revision 00
    assert read(chip, 0x0E, 1) == 0x00  # header type 0, one function
    assert read(chip, 0x2C) == 0x11001AF4
    assert read(chip, 0x34, 1) == 0x00  # no capabilities
    assert read(chip, 0x3D, 1) == 0x00  # no interrupt pin


def test_identity_is_read_only(chip: Gpex) -> None:
    for offset in (0x00, 0x08, 0x2C):
        before = read(chip, offset)
        write(chip, offset, ~before & ONES)
        assert read(chip, offset) == before


def test_command_keeps_only_its_implemented_bits(chip: Gpex) -> None:
    write(chip, 0x04, 0xFFFF, 2)
    assert read(chip, 0x04, 2) == 0x0507
    write(chip, 0x04, 0x0002, 2)
    assert read(chip, 0x04, 2) == 0x0002


def test_status_errors_are_cleared_by_writing_ones(chip: Gpex) -> None:
    state = GpexState()
    state.root.config[6:8] = (0xF900).to_bytes(2, "little")
    chip.adopt(state)
    write(chip, 0x06, 0x2000, 2)
    assert read(chip, 0x06, 2) == 0xD900
    write(chip, 0x04, ONES)
    assert read(chip, 0x04) == 0x0507


def test_interrupt_line_and_cache_line_size_are_the_guests_to_keep(chip: Gpex) -> None:
    write(chip, 0x3C, 0x5A, 1)
    write(chip, 0x0C, 0x10, 1)
    assert (read(chip, 0x3C), read(chip, 0x0C)) == (0x5A, 0x10)


def test_base_address_registers_do_not_exist(chip: Gpex) -> None:
    for offset in (*range(0x10, 0x28, 4), 0x30):
        write(chip, offset, ONES)
        assert read(chip, offset) == 0


def test_double_word_access_covers_two_registers(chip: Gpex) -> None:
    assert read(chip, 0x00, 8) == 0x0000000000081B36
    write(chip, 0x48, 0x1122334455667788, 8)
    assert read(chip, 0x4C) == 0x11223344
    assert read(chip, 0xF8, 8) == 0
    assert read(chip, 0x100, 8) == 0xFFFFFFFFFFFFFFFF


@pytest.mark.parametrize(
    "offset", [0x100, 0xFFC, 0x1000, 0x8000, 0xFF000, 0x100000, 0xFFFFFFC], ids=lambda offset: f"{offset:#x}"
)
def test_functions_that_are_not_there_read_as_ones_and_ignore_writes(chip: Gpex, offset: int) -> None:
    before = bytes(chip.state.root.config)
    write(chip, offset, 0x12345678)
    assert [read(chip, offset, size) for size in (1, 2, 4)] == [0xFF, 0xFFFF, ONES]
    assert chip.state.root.config == before


@pytest.mark.parametrize("window", [1, 2, 3])
def test_pci_space_reads_as_ones_and_ignores_writes(chip: Gpex, window: int) -> None:
    last = chip.regions[window].size - 8
    write(chip, last, 0, window=window)
    assert read(chip, last, 1, window) == 0xFF
    assert read(chip, last, 8, window) == 0xFFFFFFFFFFFFFFFF


def test_reset_clears_the_header_but_not_what_lies_behind_it(chip: Gpex) -> None:
    for offset in (0x04, 0x0C, 0x3C, 0x40):
        write(chip, offset, ONES)
    chip.reset()
    assert [read(chip, offset) for offset in (0x04, 0x0C, 0x3C, 0x40)] == [0, 0, 0, ONES]


def test_adopted_interrupt_counts_set_the_lines_without_an_edge(chip: Gpex) -> None:
    edges: list[bool] = []
    chip.intx[2].connect(edges.append)
    chip.adopt(GpexState(irq_count=[0, 0, 1, 0]))
    assert [line.level for line in chip.intx] == [False, False, True, False]
    assert edges == []


@pytest.mark.qemu
def test_configuration_space_behaves_like_qemu(start_real_board, dice, chip: Gpex) -> None:
    board = start_real_board()

    def compare() -> None:
        for size in (1, 2, 4, 8):
            for offset in range(0, 0x200, size):
                assert read(chip, offset, size) == board.load(ECAM + offset, size), (offset, size)

    compare()
    for _ in range(1000):
        size = dice.choice((1, 2, 4, 8))
        offset = dice.randrange(0, 0x200, size)
        value = dice.getrandbits(8 * size)
        write(chip, offset, value, size)
        board.store(ECAM + offset, size, value)
    compare()
    board.reset()
    chip.reset()
    compare()


@pytest.mark.qemu
def test_empty_pci_space_reads_like_qemu(start_real_board, chip: Gpex) -> None:
    board = start_real_board()
    places = [(0, ECAM, offset) for offset in (0x1000, 0x8000, 0x100000, 0xFFFFFF8)]
    places += [(1, 0x40000000, 0x3FFFFFF8), (2, 0x3000000, 0xFFF8), (3, 0x400000000, 0x3FFFFFFF8)]
    for window, base, offset in places:
        for size in (1, 2, 4, 8):
            assert read(chip, offset, size, window) == board.load(base + offset, size), (window, offset, size)
