from __future__ import annotations

import os
import threading

import pytest

from emulator.chardev.loop import READ, IoLoop


def test_no_thread_before_the_first_call():
    before = set(threading.enumerate())
    loop = IoLoop()
    assert set(threading.enumerate()) <= before
    loop.close()


def test_calls_run_in_order_on_one_thread(loop):
    seen = []
    for number in range(100):
        loop.call(lambda number=number: seen.append((number, loop.inside())))
    loop.run(lambda: None)
    assert seen == [(number, True) for number in range(100)]
    assert not loop.inside()


def test_timers_fire_in_the_order_of_their_deadlines(loop):
    seen, done = [], threading.Event()

    def arm():
        loop.call_later(0.002, done.set)
        loop.call_later(0.001, lambda: seen.append(2))
        loop.call_later(0, lambda: seen.append(1))

    loop.call(arm)
    assert done.wait(20)
    assert seen == [1, 2]


def test_watched_descriptor_calls_until_unwatched(loop):
    read, write = os.pipe()
    got, twice = [], threading.Event()

    def ready(fd, events):
        got.append((os.read(fd, 1), events))
        if len(got) == 2:
            loop.watch(fd, 0, ready)
            twice.set()

    loop.run(lambda: loop.watch(read, READ, ready))
    os.write(write, b"abc")
    assert twice.wait(20)
    loop.run(lambda: None)
    assert got == [(b"a", READ), (b"b", READ)]
    os.close(read)
    os.close(write)


def test_event_of_a_descriptor_dropped_in_the_same_round_is_forgotten(loop):
    pipes = [os.pipe(), os.pipe()]
    called = []

    def ready(fd, _events):
        called.append(fd)
        for read, _ in pipes:
            loop.watch(read, 0, ready)

    def arm():
        for read, write in pipes:
            os.write(write, b"x")
            loop.watch(read, READ, ready)

    loop.run(arm)
    loop.run(lambda: None)
    loop.run(lambda: None)
    assert len(called) == 1
    for fd in sum(pipes, ()):
        os.close(fd)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_faulty_callback_does_not_stop_the_loop(loop):
    def fail():
        raise RuntimeError("faulty")

    loop.call(fail)
    ran = threading.Event()
    loop.call(ran.set)
    assert ran.wait(20)


def test_close_runs_what_was_handed_over_and_leaves_no_descriptor(open_files):
    before = open_files()
    loop = IoLoop()
    seen = []
    for number in range(10):
        loop.call(lambda number=number: seen.append(number))
    loop.close()
    loop.close()
    assert seen == list(range(10))
    assert open_files() == before


def test_run_after_close_runs_here():
    loop = IoLoop()
    loop.run(lambda: None)
    loop.call(lambda: None)
    loop.close()
    seen = []
    loop.run(lambda: seen.append(threading.current_thread()))
    assert seen == [threading.current_thread()]


def test_close_from_the_loop_itself_does_not_wait_for_itself():
    loop = IoLoop()
    done = threading.Event()

    def leave():
        loop.close()
        done.set()

    loop.call(leave)
    assert done.wait(20)
