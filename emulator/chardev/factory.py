"""From a chardev's spelling to an open device."""

from __future__ import annotations

from collections.abc import Callable

from emulator.chardev.base import Chardev, Hooks, StreamChardev
from emulator.chardev.console import Mux
from emulator.chardev.file import FileChardev
from emulator.chardev.loop import IoLoop
from emulator.chardev.pseudoterminal import PtyChardev
from emulator.chardev.sockets import ClientChardev, ServerChardev
from emulator.chardev.spec import ChardevSpec, parse_chardev
from emulator.chardev.stdio import StdioChardev
from emulator.core.charport import CharPort
from emulator.core.endpoint import Endpoint, TcpEndpoint, UnixEndpoint


def open_chardev(
    spec: str | ChardevSpec,
    port: CharPort | Mux,
    loop: IoLoop,
    *,
    announce: Callable[[str], None] = print,
    on_open: Callable[[], None] = lambda: None,
    on_close: Callable[[], None] = lambda: None,
) -> Chardev:
    """Open the chardev that `spec` names and connect it to `port`: a `Mux` if and only if it was spelled `mon:…`.

    `announce` gets lines for the user; `on_open` and `on_close` hear, on the loop's thread, of a peer that comes or
    goes. ChardevError if the spelling is wrong or the device cannot be opened; ValueError for the wrong sort of port.
    """
    if isinstance(spec, str):
        spec = parse_chardev(spec)
    if spec.mux != isinstance(port, Mux):
        raise ValueError("a chardev spelled mon: needs a Mux, and any other a CharPort")
    if spec.kind == "null":
        return Chardev(port)
    chardev = _make(spec, port, loop, Hooks(announce, on_open, on_close))
    if isinstance(port, Mux):
        port.attach(chardev)
    chardev.start()
    return chardev


def _make(spec: ChardevSpec, port: CharPort | Mux, loop: IoLoop, hooks: Hooks) -> StreamChardev:
    match spec.kind:
        case "stdio":
            return StdioChardev(port, loop, hooks, signals=not spec.mux)
        case "pty":
            return PtyChardev(port, loop, hooks)
        case "file":
            return FileChardev(port, loop, hooks, spec.path)
    endpoint: Endpoint = UnixEndpoint(spec.path)
    if spec.kind == "tcp":
        endpoint = TcpEndpoint(spec.host, spec.port, nodelay=spec.nodelay)
    if spec.server:
        return ServerChardev(port, loop, hooks, endpoint, wait=spec.wait)
    return ClientChardev(port, loop, hooks, endpoint)
