import pytest

from emulator.core.errors import MonitorError
from emulator.monitor.expression import DEPTH_LIMIT, evaluate

REGISTERS = {"pc": 0x1000, "x10": 2**64 - 1}


def value_of(text: str) -> int:
    value, end = evaluate(text, 0, REGISTERS.get)
    assert end == len(text)
    return value


# Every value was printed by `print/d` of QEMU 7.2, except those with registers, which it has not on RISC-V.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1+2*3", 7),
        ("1+2&3", 3),
        ("4&1+3", 3),
        ("2|4*3", 14),
        ("1 ^ 3 * 2 & 1", 1),
        ("1 + 2 * ( 3 | 4 )", 15),
        ("010", 8),
        ("0x10", 16),
        ("18446744073709551615", -1),
        ("- - 1", 1),
        ("~1+1", -1),
        ("-(3)", -3),
        ("-2*3", -6),
        ("7/-2", -3),
        ("-7/2", -3),
        ("-7%3", -1),
        ("5 %3", 2),
        ("9223372036854775807*2", -2),
        ("'a'", 97),
        ("'''", 39),
        ("$pc + 8", 0x1008),
        ("$x10", -1),
    ],
)
def test_value_is_qemus(text: str, value: int) -> None:
    assert value_of(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "unexpected end of expression"),
        ("1+", "unexpected end of expression"),
        ("(1", "')' expected"),
        ("1/0", "division by zero"),
        ("5%0", "division by zero"),
        ("0xfffffffffffffffff", "number too large"),
        ("9" * 4000, "number too large"),
        ("@", "invalid char '@' in expression"),
        ("'ab'", "missing terminating ' character"),
        ("''", "missing terminating ' character"),
        ("'", "missing terminating ' character"),
        ("$", "unknown register"),
        ("$nope", "unknown register"),
    ],
)
def test_error_text_is_qemus(text: str, message: str) -> None:
    with pytest.raises(MonitorError) as caught:
        value_of(text)
    assert str(caught.value) == message


@pytest.mark.parametrize("opening", ["(", "-", "~"])
def test_nesting_is_bounded(opening: str) -> None:
    with pytest.raises(MonitorError, match="nested too deeply"):
        value_of(opening * (DEPTH_LIMIT + 1) + "1")


@pytest.mark.parametrize(("text", "rest"), [("09", "9"), ("1 2", "2"), ("0x", "x"), ("12abc", "abc")])
def test_expression_ends_where_it_stops_making_sense(text: str, rest: str) -> None:
    _value, end = evaluate(text, 0, REGISTERS.get)
    assert text[end:] == rest
