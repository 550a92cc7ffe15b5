"""The engine's own promises, on bare instructions: precise stops with Unicorn's help and without, remapping, counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from emulator.core.errors import EngineError
from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.cpu import env, internals
from emulator.cpu.engine import Access, Engine, Exit

BASE, DEVICE = 0x8000_0000, 0x1000_0000


class Client:
    """A device that remembers, and a handler that must not be reached."""

    def __init__(self) -> None:
        self.stores: list[int] = []
        self.on_store = lambda: None

    def load(self, _address: int, _size: int) -> int | None:
        return len(self.stores)

    def store(self, _address: int, _size: int, value: int) -> bool:
        self.stores.append(value)
        self.on_store()
        return True

    def exception(self, cause: int) -> None:
        raise AssertionError(f"exception {cause}")

    def counter(self, _csr: int) -> int:
        return 0


@pytest.fixture
def client() -> Client:
    return Client()


@pytest.fixture(params=["precise", "with a callback on each block"])
def engine(request, client: Client, monkeypatch) -> Iterator[tuple[Engine, RamBlock]]:
    if request.param != "precise":
        monkeypatch.setattr(internals.Internals, "locate", classmethod(lambda *_args, **_named: None))
    yield from built(client, counting=False)


@pytest.fixture
def counting(client: Client) -> Iterator[tuple[Engine, RamBlock]]:
    yield from built(client, counting=True)


def built(client: Client, *, counting: bool) -> Iterator[tuple[Engine, RamBlock]]:
    engine, ram = Engine(client, counting=counting), RamBlock("ram", 16 * PAGE_SIZE)
    engine.map_ram(BASE, ram)
    engine.map_devices(DEVICE, PAGE_SIZE)
    engine.watch(0, BASE)
    engine.watch(BASE + ram.size, 1 << 64)
    engine.env["pc"] = BASE
    yield engine, ram
    engine.close()
    ram.close()


def put(ram: RamBlock, *parts: int | list[int]) -> None:
    words = [word for part in parts for word in ([part] if isinstance(part, int) else part)]
    ram.view[: 4 * len(words)] = b"".join(word.to_bytes(4, "little") for word in words)


def test_here_the_proof_succeeds(client: Client) -> None:
    for running, _ram in built(client, counting=False):
        assert running.precise


def test_stops_from_another_thread_repeat_and_skip_nothing(engine, client: Client, asm) -> None:
    running, ram = engine
    # store 1, 2, 3, ... 30000 to the device, each counted in memory by an atomic add as well
    put(
        ram,
        asm.li("a1", DEVICE),
        asm.li("a2", BASE + 0x2000),
        asm.li("a3", 1),
        asm.li("t0", 30_000),
        asm.addi("a0", "a0", 1),
        asm.sw("a0", 0, "a1"),
        asm.amoadd("zero", "a3", "a2"),
        0xFE551AE3,  # bne a0, t0, .-12
        asm.wfi,
        asm.j(-4),  # a stop may end a wfi, which then has done nothing
    )
    over = threading.Event()

    def pester() -> None:
        while not over.wait(0.0002):
            running.stop()

    thread = threading.Thread(target=pester)
    thread.start()
    try:
        stops = 0
        while running.run() is Exit.STOPPED:
            stops += 1
            running.clear_stop()
    finally:
        over.set()
        thread.join()
    assert client.stores == list(range(1, 30_001))
    assert int.from_bytes(ram.view[0x2000:0x2008], "little") == 30_000
    assert stops > 10


def test_a_stop_inside_a_store_does_not_repeat_it(engine, client: Client, asm) -> None:
    running, ram = engine
    put(
        ram,
        asm.li("a1", DEVICE),
        asm.li("a0", 5),
        asm.sw("a0", 0, "a1"),
        asm.addi("a0", "a0", 1),
        asm.j(4),
        asm.wfi,
    )
    client.on_store = running.stop_after_this_instruction
    while running.run() is Exit.STOPPED:
        running.clear_stop()
    assert (client.stores, running.env["x10"]) == ([5], 6)


def test_a_stop_before_the_run_is_not_lost(engine, asm) -> None:
    running, ram = engine
    put(ram, asm.j(0))
    running.stop()
    assert running.run() is Exit.STOPPED
    assert running.env["pc"] == BASE


def test_wfi_is_told_from_a_stop(engine, asm) -> None:
    running, ram = engine
    put(ram, asm.wfi)
    assert running.run() is Exit.WFI
    assert running.env["pc"] == BASE + 4


def test_a_refused_access_is_told_with_its_address(engine, asm) -> None:
    running, ram = engine
    put(ram, asm.li("a1", 0x2000), asm.lw("a0", 4, "a1"))
    assert running.run() is Exit.REFUSED
    assert (running.refusal.access, running.refusal.address, running.refusal.size) == (Access.LOAD, 0x2004, 4)


def test_an_error_in_the_client_comes_out_of_run(engine, client: Client, asm) -> None:
    running, ram = engine
    put(ram, asm.li("a1", DEVICE), asm.sw("a0", 0, "a1"), asm.wfi)

    def broken() -> None:
        raise ZeroDivisionError

    client.on_store = broken
    with pytest.raises(ZeroDivisionError):
        running.run()


def test_remapping_in_a_store_takes_effect_before_the_next_instruction(engine, client: Client, asm) -> None:
    running, ram = engine
    put(ram, asm.li("a1", DEVICE), asm.li("a3", 1), asm.sw("a3", 0, "a1"), asm.lw("a0", 4, "a1"), asm.wfi)
    other = RamBlock("rom", PAGE_SIZE)
    other.view[4:8] = b"\x78\x56\x34\x12"
    client.on_store = lambda: running.redo_after(running.env["pc"] + 4)
    assert running.run() is Exit.STOPPED
    running.unmap(DEVICE, PAGE_SIZE)
    running.map_ram(DEVICE, other, readonly=True)
    running.flush()
    assert running.run() is Exit.WFI
    assert (running.env["x10"], client.stores) == (0x1234_5678, [1])
    running.close()
    other.close()


def test_counting_is_exact_to_the_instruction(counting, asm) -> None:
    running, ram = counting
    put(ram, *[asm.addi("a0", "a0", 1)] * 20, asm.wfi)
    for count in (1, 2, 3, 5):
        assert running.run(count) is Exit.STOPPED
        assert running.executed == count
    assert running.env["x10"] == 11
    assert running.run(1000) is Exit.WFI
    assert (running.executed, running.env["x10"]) == (10, 20)


def test_counting_stops_right_behind_the_store_that_asks_for_it(counting, client: Client, asm) -> None:
    running, ram = counting
    put(ram, asm.li("a1", 0x400), asm.sw("a0", 0, "a1"), asm.addi("a0", "a0", 1), asm.wfi)
    running.map_devices(0x0, PAGE_SIZE)
    client.on_store = running.stop_after_this_instruction
    assert running.run(1000) is Exit.STOPPED
    assert (running.executed, running.env["x10"], len(client.stores)) == (2, 0, 1)


def test_counting_is_refused_where_it_cannot_be_exact(client: Client, monkeypatch) -> None:
    monkeypatch.setattr(internals.Internals, "locate", classmethod(lambda *_args, **_named: None))
    with pytest.raises(EngineError, match="-icount is not supported"):
        Engine(client, counting=True)


def test_registers_have_their_place_on_both_widths() -> None:
    for xlen, word in ((64, 8), (32, 4)):
        offsets, length = env._layout(xlen)
        assert (offsets["x1"], offsets["x31"], offsets["f0"]) == (word, 31 * word, 32 * word)
        assert offsets["pc"] == 32 * word + 32 * 8
        assert ("mstatush" in offsets) == (xlen == 32)
        assert length > offsets["pmp_rules"]
