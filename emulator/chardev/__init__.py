"""Layer 3: character devices: where the bytes of a serial port or monitor go on the host.

One `IoLoop` serves all of them; it is closed after they are:

    loop = IoLoop()
    chardev = open_chardev("tcp:127.0.0.1:0,server=on,wait=off", port, loop, announce=print)
    ...
    chardev.close()
    loop.close()

For a chardev spelled `mon:…`, which `parse_chardev(text).mux` tells, the port is a `Mux` of several:

    mux = Mux([serial0, monitor], loop, on_quit=machine.request_quit)
    chardev = open_chardev("mon:stdio", mux, loop)

A send waits while the peer of a chardev does not read and its buffer is full; `chardev.patient = False` ends that, so
that a machine can always be stopped. `Recorder` is the chardev for programs that play the terminal themselves.
"""

from emulator.chardev.base import Chardev
from emulator.chardev.console import Mux
from emulator.chardev.factory import open_chardev
from emulator.chardev.loop import IoLoop
from emulator.chardev.recorder import Recorder
from emulator.chardev.spec import ChardevSpec, parse_chardev

__all__ = ["Chardev", "ChardevSpec", "IoLoop", "Mux", "Recorder", "open_chardev", "parse_chardev"]
