"""What a user can set about migration: parameters and capabilities, by QEMU's names, each with its bounds.

Only those that mean something here are in the tables; any other name is refused, never ignored. Source: QEMU 7.2's
QAPI types MigrationParameters and MigrationCapability.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emulator.core.errors import ConfigError

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter; numbers lie between `minimum` and `maximum`, both included."""

    name: str
    default: int | str
    help: str
    unit: str = ""
    """What QEMU shows behind the number."""
    minimum: int = 0
    maximum: int = (1 << 63) - 1
    power_of_two: bool = False

    def checked(self, value: int | str) -> int | str:
        """`value` if the parameter may have it; raises ConfigError."""
        if isinstance(value, bool) or type(value) is not type(self.default):
            expected = "a string" if isinstance(self.default, str) else "a number"
            raise ConfigError(f"parameter '{self.name}' expects {expected}")
        if isinstance(value, str) and not value.isprintable():
            raise ConfigError(f"parameter '{self.name}' expects text that can be printed")
        if isinstance(value, int) and not self.minimum <= value <= self.maximum:
            raise ConfigError(f"parameter '{self.name}' expects {self.minimum} to {self.maximum}, not {value}")
        if isinstance(value, int) and self.power_of_two and value.bit_count() != 1:
            raise ConfigError(f"parameter '{self.name}' expects a power of two, not {value}")
        return value


PARAMETERS = {
    parameter.name: parameter
    for parameter in (
        Parameter(
            "cpu-throttle-initial", 20, "how much of its time auto-converge takes from the vCPU first, in %", "", 1, 99
        ),
        Parameter("cpu-throttle-increment", 10, "how much more it takes each time that is not enough, in %", "", 1, 99),
        Parameter("max-cpu-throttle", 99, "the most it takes, in %", "", 1, 99),
        Parameter("tls-creds", "", "directory of TLS certificates, or the id of an -object; empty for none"),
        Parameter("tls-hostname", "", "name that the destination's certificate must be for; empty for the URI's"),
        Parameter("max-bandwidth", 128 * MIB, "bytes a second while the guest runs; 0 for no limit", " bytes/second"),
        Parameter("downtime-limit", 300, "how long the guest may stand still, in ms", " ms", 0, 2_000_000),
        Parameter(
            "xbzrle-cache-size", 64 * MIB, "bytes XBZRLE keeps of pages", " bytes", 4096, 1 << 40, power_of_two=True
        ),
    )
}

CAPABILITIES: Mapping[str, str] = {
    "xbzrle": "send what has changed in a page, where the page was sent before",
    "auto-converge": "slow the guest down if it writes faster than memory can be sent",
    "events": "MIGRATION events for QMP",
    "return-path": "always on here where the transport has a way back; accepted for scripts",
    "pause-before-switchover": "wait for migrate_continue with the guest stopped, before its devices are saved",
    "validate-uuid": "both machines must have the same -uuid",
}


class Settings:
    """The present values; `set` and `enable` refuse what the tables do not allow."""

    def __init__(self) -> None:
        self.parameters: dict[str, int | str] = {name: parameter.default for name, parameter in PARAMETERS.items()}
        self.capabilities: dict[str, bool] = dict.fromkeys(CAPABILITIES, False)

    def number(self, name: str) -> int:
        """A parameter that is a number."""
        value = self.parameters[name]
        assert isinstance(value, int)
        return value

    def text(self, name: str) -> str:
        """A parameter that is text."""
        return str(self.parameters[name])

    def set(self, values: Mapping[str, int | str]) -> None:
        """Give parameters new values, all or none; raises ConfigError."""
        for name in values:
            if name not in PARAMETERS:
                raise ConfigError(f"migration parameter '{name}' is not supported: there are {', '.join(PARAMETERS)}")
        self.parameters |= {name: PARAMETERS[name].checked(value) for name, value in values.items()}

    def enable(self, values: Mapping[str, bool]) -> None:
        """Switch capabilities, all or none; raises ConfigError."""
        for name in values:
            if name not in CAPABILITIES:
                raise ConfigError(
                    f"migration capability '{name}' is not supported: there are {', '.join(CAPABILITIES)}"
                )
        self.capabilities |= values
