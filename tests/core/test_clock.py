from __future__ import annotations

from emulator.core.clock import VirtualClock


class Hand:
    """A clock that is set by hand, and a list of what has fired."""

    def __init__(self) -> None:
        self.now = 0
        self.fired: list[str] = []
        self.changes = 0
        self.clock = VirtualClock(lambda: self.now)
        self.clock.on_first_deadline = self._changed

    def timer(self, name: str):
        return self.clock.timer(name, lambda: self.fired.append(name))

    def _changed(self) -> None:
        self.changes += 1


def test_a_timer_fires_once_when_its_deadline_has_come() -> None:
    hand = Hand()
    hand.timer("a").arm(100)
    hand.now = 99
    hand.clock.run_expired()
    assert hand.fired == []
    hand.now = 100
    hand.clock.run_expired()
    hand.clock.run_expired()
    assert hand.fired == ["a"]


def test_timers_fire_in_the_order_of_their_deadlines() -> None:
    hand = Hand()
    for name, deadline in (("late", 30), ("early", 10), ("middle", 20)):
        hand.timer(name).arm(deadline)
    hand.now = 50
    hand.clock.run_expired()
    assert hand.fired == ["early", "middle", "late"]


def test_equal_deadlines_fire_in_the_order_of_creation_not_of_arming() -> None:
    hand = Hand()
    first, second = hand.timer("first"), hand.timer("second")
    second.arm(10)
    first.arm(10)
    hand.now = 10
    hand.clock.run_expired()
    assert hand.fired == ["first", "second"]


def test_arming_again_replaces_the_deadline() -> None:
    hand = Hand()
    timer = hand.timer("a")
    timer.arm(10)
    timer.arm(20)
    assert hand.clock.next_deadline() == 20
    timer.cancel()
    assert hand.clock.next_deadline() is None
    assert timer.deadline is None


def test_a_callback_may_arm_its_timer_for_the_past_and_fires_again() -> None:
    hand = Hand()
    timer = hand.clock.timer("again", lambda: hand.fired.append("x") or (len(hand.fired) < 3 and timer.arm(0)))
    timer.arm(1)
    hand.now = 1
    hand.clock.run_expired()
    assert hand.fired == ["x", "x", "x"]


def test_only_a_change_of_the_first_deadline_is_told() -> None:
    hand = Hand()
    hand.timer("a").arm(10)
    hand.timer("b").arm(20)
    assert hand.changes == 1
    hand.timer("c").arm(5)
    assert hand.changes == 2
