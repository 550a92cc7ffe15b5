from pathlib import Path

import pytest

from emulator.core.errors import ConfigError
from emulator.options import (
    choose_consoles,
    parse_globals,
    parse_icount,
    parse_log_items,
    parse_machine,
    parse_memory,
    parse_object,
    parse_smp,
)


def test_machine_takes_a_name_and_two_properties() -> None:
    assert parse_machine("virt") == parse_machine("type=virt") == {"machine": "virt"}
    assert parse_machine("virt-10.0,acpi=off") == {"machine": "virt-10.0", "acpi": False}
    assert parse_machine("virt,qemu-timer-fix=on,acpi=auto") == {
        "machine": "virt",
        "acpi": True,
        "qemu_timer_fix": "on",
    }
    with pytest.raises(ConfigError, match="expected on or off"):
        parse_machine("virt,acpi=maybe")
    with pytest.raises(ConfigError, match="property 'aclint' is not supported"):
        parse_machine("virt,aclint=on")


def test_memory_takes_a_size_and_no_slots() -> None:
    assert parse_memory("128M") == parse_memory("size=128M") == "128M"
    with pytest.raises(ConfigError, match="option 'slots' is not supported"):
        parse_memory("1G,slots=2")


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("cpus=4", 4)])
def test_smp(text: str, value: int) -> None:
    assert parse_smp(text) == value


@pytest.mark.parametrize("text", ["", "x", "-1", "1,threads=2", "9" * 5000, "²"])
def test_smp_refuses_what_is_no_number(text: str) -> None:
    with pytest.raises(ConfigError, match="expected a number of CPUs"):
        parse_smp(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [("5", (5, True)), ("shift=0", (0, True)), ("shift=3,sleep=off", (3, False)), ("7,sleep=on", (7, True))],
)
def test_icount(text: str, value: tuple[int, bool]) -> None:
    assert parse_icount(text) == value


@pytest.mark.parametrize(
    "text", ["", "auto", "shift=auto", "shift=", "shift=-1", "sleep=on", "3,align=on", "3,sleep=maybe", "9" * 5000]
)
def test_icount_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match="-icount"):
        parse_icount(text)


def test_log_items_are_checked() -> None:
    assert parse_log_items("int,guest_errors") == ["int", "guest_errors"]
    with pytest.raises(ConfigError, match="no log item 'out_asm'; there are in_asm, int"):
        parse_log_items("int,out_asm")


def test_global_knows_one_property() -> None:
    assert parse_globals(()) is True
    assert parse_globals(("virtio-mmio.force-legacy=false",)) is False
    assert parse_globals(("virtio-mmio.force-legacy=off", "virtio-mmio.force-legacy=on")) is True
    for text in ("virtio-mmio.force-legacy", "virtio-mmio.force-legacy=2", "virtio-mmio.ioeventfd=on", ""):
        with pytest.raises(ConfigError, match="-global"):
            parse_globals((text,))


@pytest.mark.parametrize(
    ("serial", "monitor", "flags", "expected"),
    [
        (None, None, "", ("mon:stdio", "null")),
        (None, None, "nographic", ("mon:stdio", "null")),
        (None, None, "nographic nodefaults", ("null", "null")),
        (None, "unix:m", "", ("stdio", "unix:m")),
        (None, "unix:m", "nodefaults", ("null", "unix:m")),
        (None, "stdio", "", ("null", "stdio")),
        (None, "none", "", ("stdio", "null")),
        ("file:log", None, "", ("file:log", "null")),
        ("file:log", None, "nographic", ("file:log", "stdio")),
        ("file:log", None, "nographic nodefaults", ("file:log", "null")),
        ("stdio", None, "nographic", ("stdio", "null")),
        ("mon:stdio", None, "nographic", ("mon:stdio", "null")),
        ("none", "none", "", ("null", "null")),
    ],
)
def test_consoles_share_the_terminal_as_with_qemu(
    serial: str | None, monitor: str | None, flags: str, expected: tuple[str, str]
) -> None:
    assert choose_consoles(serial, monitor, **dict.fromkeys(flags.split(), True)) == expected


@pytest.mark.parametrize(
    ("serial", "monitor", "expected"),
    [
        (None, None, ("null", "null")),
        (None, "unix:m", ("null", "unix:m")),
        ("file:log", None, ("file:log", "null")),
        ("stdio", None, ("stdio", "null")),
    ],
)
def test_a_qmp_monitor_on_the_terminal_has_it_alone(
    serial: str | None, monitor: str | None, expected: tuple[str, str]
) -> None:
    assert choose_consoles(serial, monitor, ("unix:q", "stdio"), nographic=True) == expected
    assert choose_consoles(None, None, ("unix:q",), nographic=True) == ("mon:stdio", "null")


@pytest.mark.parametrize(
    ("text", "name", "endpoint", "verify_peer"),
    [
        ("tls-creds-x509,id=tls0,dir=pki,endpoint=server,verify-peer=no", "tls0", "server", False),
        ("qom-type=tls-creds-x509,dir=pki,id=tls1", "tls1", "client", True),
    ],
)
def test_certificates_as_qemu_is_told_of_them(text: str, name: str, endpoint: str, verify_peer: bool) -> None:
    given = {"directory": Path("pki"), "endpoint": endpoint, "verify_peer": verify_peer}
    assert parse_object("-object", text) == (name, given)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rng-random,id=rng0", "only tls-creds-x509 is supported"),
        ("tls-creds-x509,dir=pki", "'id' is missing"),
        ("tls-creds-x509,id=a,dir=", "'dir' is missing"),
        ("tls-creds-x509,id=a,dir=pki,priority=NORMAL", "property 'priority' is not supported"),
        ("tls-creds-x509,id=a,dir=pki,endpoint=both", "expected endpoint=client or endpoint=server"),
        ("tls-creds-x509,id=a,dir=pki,verify-peer=maybe", "expected on or off, not 'maybe'"),
    ],
)
def test_an_object_that_is_not_understood_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_object("-object", text)
    assert str(caught.value) == f"-object: {message}"
