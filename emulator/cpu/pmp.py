"""Physical memory protection: from the registers `pmpcfg` and `pmpaddr` to the ranges that the engine checks.

The engine checks every access that its TLB does not know against a start, an end and the permissions of each entry. Its
own handlers of the two kinds of register are not used, as they differ from the specification: on RV64 they never reach
entries 8 to 15, an NA4 range ends too early, a TOR range does not follow its base, and without any entry everything is
allowed to every mode.

Source: RISC-V Privileged Architecture 1.10, section 3.6.1.
"""

from __future__ import annotations

from emulator.core.bits import mask
from emulator.cpu.env import PMP_ENTRIES, Env

CONFIG, ADDRESS = range(0x3A0, 0x3A4), range(0x3B0, 0x3B0 + PMP_ENTRIES)
"""The CSRs pmpcfg0 to 3 and pmpaddr0 to 15."""

ADDRESS_NAMES, CONFIG_NAMES, _STARTS, _ENDS = (
    tuple(f"pmp{what}{entry}" for entry in range(PMP_ENTRIES)) for what in ("addr", "cfg", "start", "end")
)
"""What they are called in the engine, and what is made of them there."""

READ, WRITE, EXECUTE, MATCH, LOCKED = 1, 2, 4, 3 << 3, 1 << 7
OFF, TOR, NA4, NAPOT = 0 << 3, 1 << 3, 2 << 3, 3 << 3


def read_config(env: Env, csr: int) -> int | None:
    """The value of a `pmpcfg` register; None where the hart has none: the odd ones on RV64."""
    entries = _entries(env, csr)
    if entries is None:
        return None
    return sum(_config(env, entry) << 8 * place for place, entry in enumerate(entries))


def write(env: Env, csr: int, value: int) -> None:
    """Write a `pmpcfg` or `pmpaddr` register; whoever calls has the engine forget its TLB."""
    if csr in ADDRESS:
        entry = csr - ADDRESS.start
        next_config = _config(env, entry + 1) if entry + 1 < PMP_ENTRIES else 0
        is_locked_base = next_config & LOCKED and next_config & MATCH == TOR
        if not _config(env, entry) & LOCKED and not is_locked_base:
            env[ADDRESS_NAMES[entry]] = value
    else:
        for place, entry in enumerate(_entries(env, csr) or ()):
            if not _config(env, entry) & LOCKED:
                env[CONFIG_NAMES[entry]] = value >> 8 * place & 0xFF
    update(env)


def update(env: Env) -> None:
    """Work out the ranges of all entries from the registers, also after these came from elsewhere."""
    base = 0
    for name, config, start, end in zip(ADDRESS_NAMES, CONFIG_NAMES, _STARTS, _ENDS, strict=True):
        address = env[name]
        env[start], env[end] = _range(env[config] & 0xFF, base, address, env.xlen)
        base = address
    env["pmp_rules"] = 1  # none would allow everything to every mode


def _entries(env: Env, csr: int) -> range | None:
    number = csr - CONFIG.start
    if env.xlen == 64 and number & 1:
        return None
    return range(4 * number, 4 * number + env.xlen // 8)


def _config(env: Env, entry: int) -> int:
    return env[CONFIG_NAMES[entry]] & 0xFF


def _range(config: int, base: int, address: int, xlen: int) -> tuple[int, int]:
    """First and last address of an entry; first behind last if it matches nothing."""
    match = config & MATCH
    if match == TOR and base < address:
        return base << 2 & mask(xlen), (address << 2) - 1 & mask(xlen)
    if match == NA4:
        return address << 2 & mask(xlen), (address << 2 & mask(xlen)) + 3
    if match == NAPOT:
        span = (address ^ address + 1) << 2 | 3  # the ones at the end, and the zero above them
        return address << 2 & ~span & mask(xlen), (address << 2 | span) & mask(xlen)
    return mask(xlen), 0
