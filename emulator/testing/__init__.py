"""Layer 2: a kit for authors of devices, which tries what a VMStateDescription promises; docs/writing-a-device.md.

It needs nothing but the package. What it finds is an AssertionError that says what to do about it.
"""

from emulator.testing.descriptions import check_description
from emulator.testing.devices import Bench, check_device

__all__ = ["Bench", "check_description", "check_device"]
