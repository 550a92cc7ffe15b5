from __future__ import annotations

import random
import socket
import threading
from functools import partial

import pytest

from emulator.chardev import Mux, open_chardev
from emulator.chardev.output import OUTPUT_LIMIT
from emulator.core.charport import INPUT_LIMIT
from emulator.core.errors import ChardevError


class Server:
    """An open server chardev and a way to connect to it."""

    def __init__(self, spec, guest, loop):
        self.said = []
        self.opened, self.closed = threading.Semaphore(0), threading.Semaphore(0)
        self.chardev = open_chardev(
            spec, guest.port, loop, announce=self.said.append, on_open=self.opened.release, on_close=self.closed.release
        )

    def connect(self, *, wait=True):
        kind, _, place = self.chardev.address.partition(":")
        if kind == "unix":
            client = socket.socket(socket.AF_UNIX)
            client.connect(place)
        else:
            host, port = place.rsplit(":", 1)
            client = socket.create_connection((host.strip("[]"), int(port)))
        client.settimeout(20)
        if wait:
            assert self.opened.acquire(timeout=20)
        return client


@pytest.fixture(params=["tcp", "unix"])
def server(request, guest, loop, tmp_path):
    place = "tcp:127.0.0.1:0" if request.param == "tcp" else f"unix:{tmp_path}/s"
    server = Server(f"{place},server=on,wait=off", guest, loop)
    yield server
    server.chardev.close()


def test_bytes_go_both_ways(server, guest, reads):
    with server.connect() as client:
        client.sendall(b"to the guest")
        assert guest.read(12) == b"to the guest"
        guest.port.send(b"from ")
        guest.port.send(b"the guest")
        assert reads.until(client, b"the guest") == b"from the guest"


def test_clients_are_served_one_after_another(server, guest, reads):
    for number in range(5):
        with server.connect() as client:
            client.sendall(b"%d" % number)
            assert guest.read(1) == b"%d" % number
            guest.port.send(b"hello")
            assert reads.until(client, b"hello") == b"hello"


def test_second_client_waits_until_the_first_has_gone(server, guest, reads):
    first = server.connect()
    second = server.connect(wait=False)
    second.sendall(b"second")
    first.sendall(b"first.")
    assert guest.read(6) == b"first."
    first.close()
    assert server.opened.acquire(timeout=20)
    assert guest.read(6) == b"second"
    guest.port.send(b"for you")
    assert reads.until(second, b"for you") == b"for you"
    second.close()


def test_output_without_a_client_is_discarded(server, guest, reads):
    guest.port.send(bytes(4 * OUTPUT_LIMIT))
    server.chardev._output.wait_empty(20)
    with server.connect() as client:
        guest.port.send(b"now")
        assert reads.chunk(client) == b"now"


def test_client_that_ended_its_input_still_gets_the_answer(server, guest, reads):
    with server.connect() as client:
        client.sendall(b"question")
        client.shutdown(socket.SHUT_WR)
        assert guest.read(8) == b"question"
        guest.port.send(b"answer")
        assert reads.to_end(client) == b"answer"
    assert server.closed.acquire(timeout=20)
    assert server.chardev.filename.startswith("disconnected:")


def test_client_that_resets_the_connection_kills_nothing(server, guest, reads):
    client = server.connect()
    guest.port.send(bytes(OUTPUT_LIMIT // 2))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()
    for _ in range(20):
        guest.port.send(bytes(1000))
    with server.connect() as client:
        guest.port.send(b"still here")
        assert reads.until(client, b"still here").endswith(b"still here")


def test_input_stops_at_a_full_port_and_goes_on(server, guest):
    data = random.randbytes(INPUT_LIMIT * 8)
    with server.connect() as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        assert guest.read(1000) == data[:1000]
        assert guest.port.room >= 0
        assert len(guest.port._input) <= INPUT_LIMIT
        assert guest.read(len(data) - 1000) == data[1000:]
        sender.join(20)
        assert not sender.is_alive()


def test_large_output_arrives_whole_at_a_slow_reader(server, guest, reads):
    data = random.randbytes(3 * OUTPUT_LIMIT)
    with server.connect() as client:
        sender = threading.Thread(target=guest.port.send, args=(data,))
        sender.start()
        got = b""
        while len(got) < len(data):
            got += reads.chunk(client)
        sender.join(20)
        assert got == data


def stall(server, guest):
    """A client that reads nothing, and a machine that sends until it has to wait."""
    client = server.connect()
    sender = threading.Thread(target=guest.port.send, args=(bytes(16 * OUTPUT_LIMIT),))
    sender.start()
    return client, sender


def test_close_lets_go_of_a_machine_that_waits_for_a_stalled_client(server, guest):
    client, sender = stall(server, guest)
    server.chardev.close()
    sender.join(20)
    assert not sender.is_alive()
    client.close()


def test_impatience_lets_go_of_a_machine_that_waits_for_a_stalled_client(server, guest):
    client, sender = stall(server, guest)
    server.chardev.patient = False
    sender.join(20)
    assert not sender.is_alive()
    client.close()


def test_a_machine_that_waits_goes_on_when_the_stalled_client_goes(server, guest):
    client, sender = stall(server, guest)
    client.close()
    sender.join(20)
    assert not sender.is_alive()


def test_close_flushes_what_waits(server, guest, reads):
    with server.connect() as client:
        guest.port.send(b"last words")
        server.chardev.close()
        assert reads.to_end(client) == b"last words"


def test_nothing_is_left_open(guest, loop, tmp_path, open_files):
    loop.run(lambda: None)
    before = open_files()
    for place in ("tcp:127.0.0.1:0", f"unix:{tmp_path}/s"):
        server = Server(f"{place},server,nowait", guest, loop)
        client = server.connect()
        server.chardev.close()
        client.close()
    assert open_files() == before
    assert not list(tmp_path.iterdir())


def test_port_zero_is_announced_with_the_real_one(guest, loop):
    server = Server("tcp:127.0.0.1:0,server=on,wait=off", guest, loop)
    port = int(server.chardev.address.rsplit(":", 1)[1])
    assert port
    assert server.said == [f"char device redirected to tcp:127.0.0.1:{port},server=on (label serial0)"]
    assert server.chardev.filename == f"disconnected:tcp:127.0.0.1:{port},server=on"
    with server.connect() as client:
        peer = client.getsockname()[1]
        assert server.chardev.filename == f"tcp:127.0.0.1:{port},server=on <-> 127.0.0.1:{peer}"
    server.chardev.close()


def test_server_without_a_host_is_on_the_loopback_only(guest, loop):
    server = Server("tcp::0,server=on,wait=off", guest, loop)
    assert server.chardev.address.startswith("tcp:127.0.0.1:")
    server.chardev.close()


def test_port_in_use_is_one_line(guest, loop):
    with socket.create_server(("127.0.0.1", 0)) as other:
        place = f"tcp:127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ChardevError) as caught:
            open_chardev(f"{place},server=on,wait=off", guest.port, loop)
    assert str(caught.value) == f"cannot listen on {place}: Address already in use"


@pytest.mark.parametrize(
    "place", ["tcp:127.0.0.1:1", "unix:/nonexistent/socket", "unix:" + "x" * 200, f"tcp:{'x' * 70}..invalid:1"]
)
@pytest.mark.parametrize("mode", ["", ",server=on,wait=off"])
def test_unreachable_place_is_one_line(place, mode, guest, loop):
    if place.startswith("tcp:127") and mode:
        place = "tcp:192.0.2.1:1"  # a documentation address, which no machine has
    with pytest.raises(ChardevError) as caught:
        open_chardev(place + mode, guest.port, loop)
    assert str(caught.value).startswith(f"cannot {'listen on' if mode else 'connect to'} {place}: ")
    assert "\n" not in str(caught.value)


def test_stale_socket_file_is_replaced(guest, loop, tmp_path):
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(tmp_path / "s"))
    server = Server(f"unix:{tmp_path}/s,server=on,wait=off", guest, loop)
    server.connect().close()
    server.chardev.close()


def test_socket_file_in_use_is_refused_and_its_server_left_undisturbed(guest, loop, tmp_path):
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "s"))
        other.listen()
        other.setblocking(False)
        with pytest.raises(ChardevError, match="Address already in use"):
            open_chardev(f"unix:{tmp_path}/s,server=on,wait=off", guest.port, loop)
        with pytest.raises(BlockingIOError):
            other.accept()
    assert (tmp_path / "s").exists()


def test_other_file_at_the_socket_path_is_never_removed(guest, loop, tmp_path):
    (tmp_path / "s").write_text("precious")
    with pytest.raises(ChardevError, match="Address already in use"):
        open_chardev(f"unix:{tmp_path}/s,server=on,wait=off", guest.port, loop)
    assert (tmp_path / "s").read_text() == "precious"


def test_socket_file_that_is_someone_elses_by_now_is_left_alone(guest, loop, tmp_path):
    server = Server(f"unix:{tmp_path}/s,server=on,wait=off", guest, loop)
    (tmp_path / "s").rename(tmp_path / "moved")
    (tmp_path / "s").write_text("other")
    server.chardev.close()
    assert (tmp_path / "s").read_text() == "other"


@pytest.mark.parametrize("option", ["", ",wait=on"])
def test_waiting_server_holds_up_the_start_until_a_client_comes(option, guest, loop, tmp_path, reads):
    said, listening = [], threading.Event()
    result = []

    def announce(line):
        said.append(line)
        listening.set()

    opener = threading.Thread(
        target=lambda: result.append(
            open_chardev(f"unix:{tmp_path}/s,server=on{option}", guest.port, loop, announce=announce)
        )
    )
    opener.start()
    assert listening.wait(20)
    assert said == [f"serial0: waiting for connection on: disconnected:unix:{tmp_path}/s,server=on"]
    assert not result
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        opener.join(20)
        guest.port.send(b"the very first byte")
        assert reads.until(client, b"byte") == b"the very first byte"
    result[0].close()


def test_client_talks_to_a_server_and_survives_its_end(guest, loop, tmp_path, reads):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        closed = threading.Event()
        chardev = open_chardev(f"unix:{tmp_path}/s", guest.port, loop, on_close=closed.set)
        peer, _ = listener.accept()
        guest.port.send(b"ping")
        assert reads.until(peer, b"ping") == b"ping"
        peer.sendall(b"pong")
        assert guest.read(4) == b"pong"
        assert chardev.filename == f"unix:{tmp_path}/s"
        peer.close()
        guest.port.send(b"x")
        assert closed.wait(20)
        assert chardev.filename == f"disconnected:unix:{tmp_path}/s"
        guest.port.send(bytes(4 * OUTPUT_LIMIT))
        chardev.close()


def test_client_whose_server_ends_without_a_word(guest, loop):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        closed = threading.Event()
        spec = f"tcp:127.0.0.1:{listener.getsockname()[1]},nodelay=on"
        chardev = open_chardev(spec, guest.port, loop, on_close=closed.set)
        listener.accept()[0].close()
        assert closed.wait(20)
        chardev.close()


def test_console_over_a_socket(loop, make_guest, reads, tmp_path):
    serial, monitor = make_guest("serial0"), make_guest("monitor")
    quits = threading.Event()
    mux = Mux([serial.port, monitor.port], loop, on_quit=quits.set)
    chardev = open_chardev(f"mon:unix:{tmp_path}/s,server=on,wait=off", mux, loop)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        client.sendall(b"boot\x01cinfo\x01x")
        assert quits.wait(20)
        assert serial.read(4) == b"boot"
        assert monitor.read(4) == b"info"
        assert b"terminated" in reads.until(client, b"terminated")
    chardev.close()


def test_quitting_lets_go_of_a_machine_that_waits_for_a_stalled_console(loop, make_guest, tmp_path):
    serial = make_guest("serial0")
    quits, opened = threading.Event(), threading.Event()
    mux = Mux([serial.port], loop, on_quit=quits.set)
    spec = f"mon:unix:{tmp_path}/s,server=on,wait=off"
    chardev = open_chardev(spec, mux, loop, on_open=opened.set)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "s"))
        assert opened.wait(20)
        sender = threading.Thread(target=partial(serial.port.send, bytes(16 * OUTPUT_LIMIT)))
        sender.start()
        client.sendall(bytes(2 * INPUT_LIMIT) + b"\x01x")
        assert quits.wait(20)
        sender.join(20)
        assert not sender.is_alive()
        chardev.close()


def test_wrong_sort_of_port_is_the_callers_mistake(loop, guest):
    with pytest.raises(ValueError, match="Mux"):
        open_chardev("mon:null", guest.port, loop)
    with pytest.raises(ValueError, match="Mux"):
        open_chardev("null", Mux([guest.port], loop, on_quit=lambda: None), loop)
