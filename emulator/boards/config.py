"""What the user chooses about the board, checked as far as it can be without opening a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from emulator.boards.layout import MIB
from emulator.boards.machinetypes import MACHINE_TYPES, MachineType
from emulator.core.errors import ConfigError
from emulator.core.uuids import NO_UUID

MAX_HARTS = 512
RNG_SEED_SIZE = 32


@dataclass(frozen=True, slots=True)
class BoardConfig:
    """The options of one `virt` machine, by the names of QEMU's command line; raises ConfigError for a bad mix."""

    ram_size: int = 128 * MIB
    """Bytes, a multiple of the page size."""
    machine_type: MachineType = MACHINE_TYPES["virt-10.0"]
    acpi: bool = True
    """Whether there is memory for ACPI tables, if the machine type has any."""
    smp: int = 1
    isa: str = "rv64imafdc_zicsr_zifencei"
    """The CPU's instruction set as the device tree spells it."""
    mmu_type: str = "riscv,sv48"
    bios: str = "default"
    """`default` (OpenSBI from where distributions put it), `none`, or a file."""
    kernel: Path | None = None
    initrd: Path | None = None
    append: str = ""
    dtb: Path | None = None
    """A device tree to use in place of the board's own."""
    pflash: tuple[Path | None, Path | None] = (None, None)
    """Images of the two flash banks, each as large as the bank; what the guest programs stays in memory.

    The CPU starts in bank 0 if that has an image; firmware goes on to bank 1 if that has one.
    """
    nographic: bool = True
    force_legacy_virtio: bool = True
    rng_seed: bytes | None = None
    """What the guest gets as `/chosen/rng-seed`, the same after each reset; None draws fresh bytes each time."""
    wall_base_ns: int | None = None
    """Wall-clock time in ns since 1970 when virtual time is 0; None follows the host's clock."""
    uuid: bytes = NO_UUID
    """The machine's own identifier, which firmware finds in fw_cfg: 16 bytes."""

    def __post_init__(self) -> None:
        if not 1 <= self.smp <= MAX_HARTS:
            raise ConfigError(f"Invalid SMP CPUs {self.smp}. The max CPUs supported by machine 'virt' is {MAX_HARTS}")
        if self.kernel is None and self.append:
            raise ConfigError("-append only allowed with -kernel option")
        if self.kernel is None and self.initrd is not None:
            raise ConfigError("-initrd only allowed with -kernel option")
        if "\0" in self.append:
            raise ConfigError("-append must not contain a NUL character")
        try:
            self.append.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise ConfigError(f"-append cannot be encoded: {error.reason}") from error
        if self.rng_seed is not None and len(self.rng_seed) != RNG_SEED_SIZE:
            raise ConfigError(f"the seed must have {RNG_SEED_SIZE} bytes, not {len(self.rng_seed)}")
