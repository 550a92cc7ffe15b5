"""The QEMU Machine Protocol: a client's messages to commands and back, without input or output.

`Qmp` is one client's conversation. It takes the bytes that have arrived and gives back the replies to send, each
command being carried out when its reply is asked for. The capability `oob` is not offered: commands are answered in the
order in which they came. Protocol: QEMU's docs/interop/qmp-spec.txt; commands and events: its QAPI schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from emulator.core.errors import EmulatorError, MonitorError
from emulator.monitor import information
from emulator.monitor.arguments import INTEGER, STRING, Argument, Arguments, ListOf, OneOf, accept_all
from emulator.monitor.commands import COMMANDS, Command
from emulator.monitor.context import Context
from emulator.monitor.hmp import Hmp
from emulator.monitor.qmpjson import JsonError, JsonReader

MEMBERS = ("execute", "arguments", "id")
"""What a request may have."""
NEGOTIATION = "qmp_capabilities"


class CommandNotFoundError(MonitorError):
    """There is no such command, or not now."""


def error_class(error: EmulatorError) -> str:
    """QAPI's `QapiErrorClass`: the only thing about an error that clients may look at."""
    return "CommandNotFound" if isinstance(error, CommandNotFoundError) else "GenericError"


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as it is sent: ASCII, on a line of its own."""
    return json.dumps(message).encode() + b"\r\n"


def encode_event(name: str, data: Mapping[str, Any], seconds: float) -> bytes:
    """An event that happened at a time in seconds since 1970."""
    microseconds = int(seconds * 1_000_000)
    timestamp = {"seconds": microseconds // 1_000_000, "microseconds": microseconds % 1_000_000}
    message = {"timestamp": timestamp, "event": name}
    return encode({**message, "data": data} if data else message)


def _human(context: Context, arguments: Arguments) -> str:
    if arguments["cpu-index"] not in (None, 0):
        raise MonitorError("Parameter 'cpu-index' expects a CPU number")
    text = Hmp(context).execute(arguments["command-line"])
    return text.replace("\n", "\r\n") + "\r\n" if text else ""


def _query_commands(_context: Context, _arguments: Arguments) -> list[dict[str, str]]:
    return [{"name": name} for name in QMP_COMMANDS]


def _capabilities(_context: Context, arguments: Arguments) -> None:
    if arguments["enable"]:
        raise MonitorError(f"Capability {', '.join(arguments['enable'])} not available")


_OWN_COMMANDS = (
    Command(
        (),
        "carry out a line of the human monitor",
        _human,
        (Argument("command-line", STRING), Argument("cpu-index", INTEGER, optional=True)),
        qmp="human-monitor-command",
    ),
    Command(
        (),
        "end the negotiation of capabilities, of which there are none",
        _capabilities,
        (Argument("enable", ListOf(OneOf(("oob",))), optional=True),),
        qmp=NEGOTIATION,
    ),
    Command((), "the commands", _query_commands, qmp="query-commands"),
)
"""Those that are about QMP itself."""

QMP_COMMANDS = {
    command.qmp: command for command in sorted((*COMMANDS, *_OWN_COMMANDS), key=lambda one: one.qmp) if command.qmp
}


class Qmp:
    """One client, from its connection to its end."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._reader = JsonReader()
        self.negotiated = False
        """Whether capabilities have been negotiated: before, there is one command, and no events are sent."""

    @property
    def greeting(self) -> bytes:
        """What a client gets first."""
        return encode({"QMP": {"version": information.version(self._context, {}), "capabilities": []}})

    def receive(self, data: bytes) -> Iterator[bytes]:
        """Carry out the requests that are complete now, one at a time, and give the reply to each."""
        for request in self._reader.feed(data):
            yield encode(self._answer(request))

    def _answer(self, request: Any) -> dict[str, Any]:
        try:
            if isinstance(request, JsonError):
                raise request
            if not isinstance(request, dict):
                raise MonitorError("QMP input must be a JSON object")
            result = self._execute(request)
            reply: dict[str, Any] = {"return": {} if result is None else result}
        except EmulatorError as error:
            reply = {"error": {"class": error_class(error), "desc": str(error)}}
        if isinstance(request, dict) and "id" in request:
            reply["id"] = request["id"]
        return reply

    def _execute(self, request: dict[str, Any]) -> Any:
        name = _check_request(request)
        if not self.negotiated and name != NEGOTIATION:
            raise CommandNotFoundError(f"Expecting capabilities negotiation with '{NEGOTIATION}'")
        command = QMP_COMMANDS.get(name)
        if command is None:
            raise CommandNotFoundError(f"The command {name} has not been found")
        arguments = accept_all(command.arguments, request.get("arguments", {}))
        if name == NEGOTIATION and self.negotiated:
            raise CommandNotFoundError("Capabilities negotiation is already complete, command ignored")
        result = command.run(self._context, arguments)
        self.negotiated = True
        return result


def _check_request(request: dict[str, Any]) -> str:
    """The name of the command that is to be executed; raises MonitorError."""
    for member in request:
        if member not in MEMBERS:
            raise MonitorError(f"QMP input member '{member}' is unexpected")
    name = request.get("execute", "")
    if not isinstance(name, str):
        raise MonitorError("QMP input member 'execute' must be a string")
    if not isinstance(request.get("arguments", {}), dict):
        raise MonitorError("QMP input member 'arguments' must be an object")
    if "execute" not in request:
        raise MonitorError("QMP input lacks member 'execute'")
    return name
