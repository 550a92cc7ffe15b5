from __future__ import annotations

import random
import threading
import time

from emulator.chardev.output import OUTPUT_LIMIT, OUTPUT_MAXIMUM, OutputBuffer


class Wakes:
    def __init__(self):
        self.count = 0
        self.event = threading.Event()

    def __call__(self):
        self.count += 1
        self.event.set()


def drain(buffer: OutputBuffer, size: int = 1 << 16) -> bytes:
    data = buffer.peek(size)
    buffer.consume(len(data))
    return data


def test_burst_of_bytes_wakes_once():
    wakes = Wakes()
    buffer = OutputBuffer(wakes, lambda: True)
    for value in range(256):
        buffer.put(bytes([value]))
    assert wakes.count == 1
    assert drain(buffer) == bytes(range(256))


def test_idle_buffer_wakes_again():
    wakes = Wakes()
    buffer = OutputBuffer(wakes, lambda: True)
    buffer.put(b"a")
    assert not buffer.idle()
    drain(buffer)
    buffer.put(b"b")
    assert wakes.count == 1
    assert not buffer.idle()
    drain(buffer)
    assert buffer.idle()
    buffer.put(b"c")
    assert wakes.count == 2


def test_pieces_of_all_sizes_keep_their_order():
    random.seed(7)
    buffer = OutputBuffer(lambda: None, lambda: True)
    sent = got = b""
    for size in random.choices([0, 1, 15, 16, 17, 300], k=6000):
        piece = random.randbytes(size)
        buffer.put(piece)
        sent += piece
        if random.random() < 0.01:
            got += drain(buffer, 1000)
    while piece := drain(buffer):
        got += piece
    assert got == sent


def test_full_buffer_holds_up_the_sender_until_there_is_room():
    buffer = OutputBuffer(lambda: None, lambda: True)
    data = random.randbytes(3 * OUTPUT_LIMIT + 5)
    sender = threading.Thread(target=buffer.put, args=(data,))
    sender.start()
    got = b""
    deadline = time.monotonic() + 20
    while len(got) < len(data) and time.monotonic() < deadline:
        got += drain(buffer, 1 << 18)
        assert len(buffer.peek(2 * OUTPUT_LIMIT)) <= OUTPUT_LIMIT
    sender.join(20)
    assert got == data


def test_single_bytes_without_a_reader_stay_bounded():
    buffer = OutputBuffer(lambda: None, lambda: False)
    for _ in range(3 * OUTPUT_LIMIT):
        buffer.put(b"x")
    assert len(buffer.peek(4 * OUTPUT_LIMIT)) == OUTPUT_MAXIMUM


def waiting_sender(buffer: OutputBuffer) -> threading.Thread:
    buffer.put(bytes(OUTPUT_LIMIT))
    entered = threading.Event()
    buffer._may_wait = lambda: entered.set() or True
    sender = threading.Thread(target=buffer.put, args=(b"the last straw, which is a long one",))
    sender.start()
    assert entered.wait(20)
    return sender


def test_shut_lets_go_of_a_waiting_sender():
    buffer = OutputBuffer(lambda: None, lambda: True)
    sender = waiting_sender(buffer)
    buffer.shut()
    sender.join(20)
    assert not sender.is_alive()
    buffer.put(bytes(100))
    assert len(buffer.peek(2 * OUTPUT_LIMIT)) == OUTPUT_LIMIT


def test_impatience_lets_go_of_a_waiting_sender_without_loss():
    buffer = OutputBuffer(lambda: None, lambda: True)
    sender = waiting_sender(buffer)
    buffer.patient = False
    sender.join(20)
    assert not sender.is_alive()
    assert buffer.peek(2 * OUTPUT_LIMIT).endswith(b"a long one")
    buffer.put(bytes(2 * OUTPUT_LIMIT))
    assert len(buffer.peek(4 * OUTPUT_LIMIT)) == 2 * OUTPUT_LIMIT


def test_wait_empty_gives_up_in_time():
    buffer = OutputBuffer(lambda: None, lambda: True)
    assert buffer.wait_empty(None)
    buffer.put(bytes(100))
    assert not buffer.wait_empty(0)
    buffer.patient = False
    assert not buffer.wait_empty(None)
    buffer.clear()
    assert buffer.wait_empty(None)
