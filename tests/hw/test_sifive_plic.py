"""The PLIC: values from the PLIC specification 1.0.0, and the register file of QEMU 7.2's `virt` board."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest

from emulator.core.errors import ConfigError
from emulator.core.irq import IrqLine
from emulator.hw.sifive_plic import PlicState, SifivePlic

M, S = 0, 1
PENDING = 0x1000


class Bench:
    """A PLIC with both contexts of one hart, and its registers by name."""

    def __init__(self, **options: int) -> None:
        self.outputs = [IrqLine("MEIP"), IrqLine("SEIP")]
        self.plic = SifivePlic(self.outputs, **options)
        self.edges: list[tuple[int, bool]] = []
        for context, output in enumerate(self.outputs):
            output.connect(partial(self._edge, context))

    def _edge(self, which: int, level: bool) -> None:
        self.edges.append((which, level))

    def read(self, offset: int) -> int:
        region = self.plic.regions[0]
        assert region.accepts(offset, 4)
        return region.read(offset, 4)

    def write(self, offset: int, value: int) -> None:
        region = self.plic.regions[0]
        assert region.accepts(offset, 4)
        region.write(offset, 4, value)

    def priority(self, source: int, value: int) -> None:
        self.write(4 * source, value)

    def enable(self, context: int, *sources: int) -> None:
        for word in range(3):
            bits = sum(1 << source % 32 for source in sources if source // 32 == word)
            self.write(0x2000 + 0x80 * context + 4 * word, bits)

    def threshold(self, context: int, value: int) -> None:
        self.write(0x200000 + 0x1000 * context, value)

    def claim(self, context: int) -> int:
        return self.read(0x200004 + 0x1000 * context)

    def complete(self, context: int, source: int) -> None:
        self.write(0x200004 + 0x1000 * context, source)

    def levels(self) -> list[bool]:
        return [output.level for output in self.outputs]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def ready(bench: Bench, *sources: int, context: int = M, priority: int = 1) -> None:
    """Set up `sources` for `context` and raise their lines."""
    bench.enable(context, *sources)
    for source in sources:
        bench.priority(source, priority)
        bench.plic.input(source)(True)


def test_region_is_the_boards_aperture_and_takes_words_only(bench: Bench) -> None:
    (region,) = bench.plic.regions
    assert (region.name, region.size) == ("riscv.sifive.plic", 0x600000)
    assert region.accepts(0x5FFFFC, 4)
    assert not any(region.accepts(0x2000, size) for size in (1, 2, 8))


def test_one_cycle_of_raise_claim_lower_complete(bench: Bench) -> None:
    bench.priority(10, 1)
    bench.enable(M, 10)
    uart = IrqLine("uart")
    bench.plic.connect(10, uart)
    uart.set(True)
    assert bench.read(PENDING) == 1 << 10
    assert bench.levels() == [True, False]
    assert bench.claim(M) == 10
    assert bench.read(PENDING) == 0
    assert bench.levels() == [False, False]
    uart.set(False)
    bench.complete(M, 10)
    assert bench.claim(M) == 0
    assert bench.edges == [(M, True), (M, False)]


def test_claim_of_nothing_returns_0(bench: Bench) -> None:
    assert bench.claim(M) == 0
    assert bench.claim(S) == 0


def test_higher_priority_is_claimed_first(bench: Bench) -> None:
    ready(bench, 3, 40, 95)
    bench.priority(40, 7)
    bench.priority(95, 2)
    assert [bench.claim(M) for _ in range(4)] == [40, 95, 3, 0]


def test_ties_go_to_the_lowest_number(bench: Bench) -> None:
    ready(bench, 64, 33, 5, 32)
    assert [bench.claim(M) for _ in range(5)] == [5, 32, 33, 64, 0]


def test_priority_0_never_interrupts(bench: Bench) -> None:
    ready(bench, 10, priority=0)
    assert bench.levels() == [False, False]
    assert bench.claim(M) == 0
    assert bench.read(PENDING) == 1 << 10


def test_threshold_masks_lower_and_equal_priorities(bench: Bench) -> None:
    ready(bench, 3, 40, priority=1)
    bench.priority(40, 2)
    bench.threshold(M, 2)
    assert bench.levels() == [False, False]
    assert bench.claim(M) == 0
    bench.threshold(M, 1)
    assert bench.levels() == [True, False]
    assert [bench.claim(M), bench.claim(M)] == [40, 0]
    bench.threshold(M, 0)
    assert bench.claim(M) == 3


def test_threshold_of_one_context_leaves_the_other_alone(bench: Bench) -> None:
    ready(bench, 3)
    bench.enable(S, 3)
    bench.threshold(M, 7)
    assert bench.levels() == [False, True]


def test_both_contexts_are_told_and_one_gets_it(bench: Bench) -> None:
    ready(bench, 8)
    bench.enable(S, 8)
    assert bench.levels() == [True, True]
    assert bench.claim(S) == 8
    assert bench.levels() == [False, False]
    assert bench.claim(M) == 0


def test_contexts_have_enable_bits_of_their_own(bench: Bench) -> None:
    ready(bench, 1, 34, context=S)
    bench.enable(M, 34)
    assert bench.levels() == [True, True]
    assert bench.claim(M) == 34
    assert bench.levels() == [False, True]
    assert bench.claim(S) == 1


def test_enable_and_disable_take_effect_at_once(bench: Bench) -> None:
    bench.priority(10, 1)
    bench.plic.input(10)(True)
    assert bench.levels() == [False, False]
    bench.enable(M, 10)
    assert bench.levels() == [True, False]
    bench.enable(M)
    assert bench.levels() == [False, False]


def test_pending_survives_a_falling_line(bench: Bench) -> None:
    bench.priority(10, 1)
    bench.enable(M, 10)
    line = bench.plic.input(10)
    line(True)
    line(False)
    assert bench.read(PENDING) == 1 << 10
    assert bench.claim(M) == 10
    bench.complete(M, 10)
    assert bench.claim(M) == 0


def test_level_still_high_at_completion_pends_again(bench: Bench) -> None:
    ready(bench, 10)
    assert bench.claim(M) == 10
    assert bench.levels() == [False, False]
    bench.complete(M, 10)
    assert bench.levels() == [True, False]
    assert bench.claim(M) == 10


def test_rise_while_in_service_waits_for_completion(bench: Bench) -> None:
    bench.priority(10, 1)
    bench.enable(M, 10)
    line = bench.plic.input(10)
    line(True)
    assert bench.claim(M) == 10
    line(False)
    line(True)
    assert bench.read(PENDING) == 1 << 10
    assert bench.levels() == [False, False]
    assert bench.claim(M) == 0
    line(False)
    bench.complete(M, 10)
    assert bench.claim(M) == 10


def test_nested_claims_complete_in_any_order(bench: Bench) -> None:
    lines = {source: bench.plic.input(source) for source in (1, 2, 3)}
    bench.enable(M, *lines)
    for source, line in lines.items():
        bench.priority(source, source)
        line(True)
    assert [bench.claim(M) for _ in lines] == [3, 2, 1]
    assert {source.number for source in bench.plic.state.in_service} == {1, 2, 3}
    for line in lines.values():
        line(False)
    for source in (2, 1, 3):
        bench.complete(M, source)
    assert not bench.plic.state.in_service


def test_in_service_refers_to_the_source_itself(bench: Bench) -> None:
    ready(bench, 7)
    bench.claim(M)
    bench.priority(7, 5)
    (source,) = bench.plic.state.in_service
    assert source is bench.plic.state.sources[7]
    assert source.priority == 5


def test_completion_of_a_disabled_source_is_ignored(bench: Bench) -> None:
    ready(bench, 10)
    bench.claim(M)
    bench.enable(M)
    bench.complete(M, 10)
    bench.enable(M, 10)
    assert bench.claim(M) == 0
    bench.complete(M, 10)
    assert bench.claim(M) == 10


def test_completion_by_a_context_without_the_source_is_ignored(bench: Bench) -> None:
    ready(bench, 10)
    bench.claim(M)
    bench.complete(S, 10)
    assert bench.levels() == [False, False]
    bench.enable(S, 10)
    bench.complete(S, 10)
    assert bench.levels() == [True, True]


@pytest.mark.parametrize("number", [0, 11, 95, 96, 1023, 0xFFFFFFFF])
def test_completion_of_what_is_not_in_service_is_ignored(bench: Bench, number: int) -> None:
    ready(bench, 10)
    bench.claim(M)
    bench.write(0x2008, 0xFFFFFFFF)
    bench.complete(M, number)
    assert {source.number for source in bench.plic.state.in_service} == {10}
    assert bench.levels() == [False, False]


def test_priority_and_threshold_keep_three_bits(bench: Bench) -> None:
    for offset in (4, 4 * 95, 0x200000, 0x201000):
        bench.write(offset, 0xFFFFFFFF)
        assert bench.read(offset) == 7
        bench.write(offset, 0xFFFFFFFA)
        assert bench.read(offset) == 2


def test_priorities_that_fill_no_bits_refuse_what_is_out_of_range() -> None:
    bench = Bench(priorities=5)
    bench.priority(1, 5)
    bench.priority(1, 6)
    bench.threshold(S, 8)
    assert bench.read(4) == 5
    assert bench.read(0x201000) == 0


def test_changing_the_priority_of_a_pending_source_moves_the_line(bench: Bench) -> None:
    ready(bench, 10)
    bench.priority(10, 0)
    assert bench.levels() == [False, False]
    bench.priority(10, 3)
    assert bench.levels() == [True, False]


def test_enable_words_hold_all_bits(bench: Bench) -> None:
    for offset in (0x2000, 0x2004, 0x2008, 0x2080, 0x2084, 0x2088):
        bench.write(offset, 0xFFFFFFFF)
        assert bench.read(offset) == 0xFFFFFFFF


def test_source_0_does_not_exist_even_when_enabled(bench: Bench) -> None:
    bench.write(0x0, 7)
    bench.write(0x2000, 1)
    assert bench.read(0x0) == 0
    assert bench.claim(M) == 0
    with pytest.raises(ConfigError):
        bench.plic.input(0)


def test_pending_words_are_read_only(bench: Bench) -> None:
    bench.plic.input(95)(True)
    for word in range(3):
        bench.write(PENDING + 4 * word, 0xFFFFFFFF if word < 2 else 0)
    assert [bench.read(PENDING + 4 * word) for word in range(3)] == [0, 0, 1 << 31]


@pytest.mark.parametrize(
    "offset",
    [
        0x0,
        4 * 96,
        0xFFC,
        0x100C,
        0x1FFC,
        0x200C,
        0x207C,
        0x208C,
        0x2100,
        0x1FFFFC,
        0x200008,
        0x202000,
        0x202004,
        0x5FFFFC,
    ],
)
def test_holes_read_0_and_swallow_writes(bench: Bench, offset: int) -> None:
    ready(bench, 10)
    bench.write(offset, 0xFFFFFFFF)
    assert bench.read(offset) == 0
    assert bench.claim(M) == 10
    assert [bench.read(at) for at in (0x2000, 0x2080, 0x200000, 0x201000)] == [1 << 10, 0, 0, 0]


@pytest.mark.parametrize("source", [-1, 0, 96])
def test_source_that_does_not_exist_cannot_be_connected(bench: Bench, source: int) -> None:
    with pytest.raises(ConfigError):
        bench.plic.connect(source, IrqLine())


def test_source_takes_one_line_only(bench: Bench) -> None:
    bench.plic.connect(1, IrqLine())
    with pytest.raises(ConfigError):
        bench.plic.connect(1, IrqLine())


@pytest.mark.parametrize("sources", [1, 1025])
def test_source_count_that_the_register_file_cannot_hold_is_refused(sources: int) -> None:
    with pytest.raises(ConfigError):
        SifivePlic([IrqLine()], sources=sources)


def test_reset_clears_everything_and_lowers_the_outputs_without_an_edge(bench: Bench) -> None:
    ready(bench, 10, 11)
    bench.claim(M)
    bench.threshold(S, 3)
    bench.edges.clear()
    bench.plic.reset()
    assert bench.plic.state == PlicState(96, 2)
    assert bench.levels() == [False, False]
    assert bench.edges == []
    assert bench.read(PENDING) == 0


def test_adopted_state_sets_outputs_without_an_edge(bench: Bench) -> None:
    state = PlicState(96, 2)
    state.sources[10].priority = state.sources[12].priority = 1
    state.pending = 1 << 10 | 1 << 12
    state.enable = [1 << 10, 1 << 12]
    state.in_service = {state.sources[12]}
    bench.plic.adopt(state)
    assert bench.levels() == [True, False]
    assert bench.edges == []
    assert bench.claim(S) == 0
    bench.complete(S, 12)
    assert bench.claim(S) == 12


def test_line_restored_high_pends_again_at_completion(bench: Bench) -> None:
    uart = IrqLine("uart")
    bench.plic.connect(10, uart)
    state = PlicState(96, 2)
    state.sources[10].priority = 1
    state.enable[M] = 1 << 10
    state.in_service = {state.sources[10]}
    bench.plic.adopt(state)
    uart.restore_level(True)
    bench.complete(M, 10)
    assert bench.levels() == [True, False]


def test_four_harts_have_eight_contexts() -> None:
    outputs = [IrqLine() for _ in range(8)]
    plic = SifivePlic(outputs)
    (region,) = plic.regions
    region.write(4, 4, 1)
    region.write(0x2000 + 7 * 0x80, 4, 2)
    plic.input(1)(True)
    assert [output.level for output in outputs] == [False] * 7 + [True]
    assert region.read(0x200004 + 7 * 0x1000, 4) == 1


class Twin:
    """QEMU's own PLIC, reached through its qtest protocol; the vCPU never starts."""

    COMMAND = "qemu-system-riscv64 -M virt -m 16M -bios none -nodefaults -display none -S -qtest stdio -qtest-log none"
    PLIC = "/machine/unattached/device[2]"

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            self.COMMAND.split(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, command: str) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(command, file=self.process.stdin, flush=True)
        word, *answer = self.process.stdout.readline().split()
        assert word == "OK", command
        return int(answer[0], 16) if answer else 0

    def read(self, offset: int) -> int:
        return self.ask(f"readl {0xC000000 + offset:#x}")

    def write(self, offset: int, value: int) -> None:
        self.ask(f"writel {0xC000000 + offset:#x} {value:#x}")

    def drive(self, source: int, level: bool) -> None:
        self.ask(f"set_irq_in {self.PLIC} unnamed-gpio-in {source} {int(level)}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def twin() -> Iterator[Twin]:
    twin = Twin()
    yield twin
    twin.close()


@pytest.mark.qemu
@pytest.mark.parametrize("seed", range(4))
def test_registers_answer_like_those_of_qemu(bench: Bench, twin: Twin, seed: int) -> None:
    rng = random.Random(seed)
    sources = [1, 2, 10, 31, 32, 33, 63, 64, 95]
    lines = {source: bench.plic.input(source) for source in sources}
    high: set[int] = set()
    claimed: dict[int, int] = {}
    registers = [4 * source for source in sources] + [
        0x0,
        0x184,
        0x1000,
        0x1004,
        0x1008,
        0x100C,
        0x2000,
        0x2004,
        0x2008,
    ]
    registers += [0x200C, 0x2080, 0x2084, 0x2088, 0x2100, 0x200000, 0x200008, 0x201000, 0x202000]
    for _ in range(600):
        match rng.choice(["line", "write", "claim", "claim", "complete"]):
            case "line":
                source, level = rng.choice(sources), rng.random() < 0.6
                lines[source](level)
                # QEMU hears of a level that does not change, and latches it again; our lines carry edges only.
                if level != (source in high):
                    twin.drive(source, level)
                high ^= {source} if level != (source in high) else set()
            case "write":
                offset, value = rng.choice(registers), rng.getrandbits(32) | rng.getrandbits(32)
                if offset in (0x200000, 0x201000):
                    value &= rng.choice([0, 3, 0xFFFFFFFF])
                bench.write(offset, value)
                twin.write(offset, value)
            case "claim":
                context = rng.choice([M, S])
                number = bench.claim(context)
                assert twin.read(0x200004 + 0x1000 * context) == number
                if number:
                    claimed[number] = context
            case "complete" if claimed:
                source, context = claimed.popitem()
                enable = 0x2000 + 0x80 * context + source // 32 * 4
                for side in (bench, twin):
                    side.write(enable, bench.read(enable) | 1 << source % 32)
                    side.write(0x200004 + 0x1000 * context, source)
                if source in high:
                    twin.drive(source, True)
        assert [bench.read(offset) for offset in registers] == [twin.read(offset) for offset in registers]
