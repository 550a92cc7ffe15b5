import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.monitor.qmpjson import NESTING_LIMIT, SIZE_LIMIT, TOKEN_LIMIT, WORD_LIMIT, JsonError, JsonReader


def read(data: bytes, step: int | None = None) -> list[Any]:
    """What comes out when `data` arrives at once, or in pieces; errors as their text."""
    reader = JsonReader()
    pieces = [data] if step is None else [data[start : start + step] for start in range(0, len(data), step)]
    return [f"! {value}" if isinstance(value, JsonError) else value for piece in pieces for value in reader.feed(piece)]


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b'{"a": 1}{"b": [1, 2, {}]}', [{"a": 1}, {"b": [1, 2, {}]}]),
        (b"{'a': 'it\\'s \"x\"'}", [{"a": 'it\'s "x"'}]),
        (rb'"\"\\\/\b\f\n\r\t\u00e4"', ['"\\/\b\f\n\r\t\u00e4']),
        (rb'"\ud83d\ude00"', ["\U0001f600"]),
        ("\u00e4".join('""').encode(), ["\u00e4"]),
        (b'[] {} "" ', [[], {}, ""]),
        (b"true false null -0 17 0.5 -1e3 ", [True, False, None, 0, 17, 0.5, -1000.0]),
        (b"18446744073709551615 18446744073709551616 ", [(1 << 64) - 1, float(1 << 64)]),
        (b"-9223372036854775808 ", [-(1 << 63)]),
    ],
)
def test_values(data: bytes, values: list[Any]) -> None:
    assert read(data) == read(data, step=1) == values


EXPECTING_VALUE = "! JSON parse error, expecting value"


@pytest.mark.parametrize(
    ("data", "values"),
    [
        (b"}", [EXPECTING_VALUE]),
        (b'{"execute":]}', [EXPECTING_VALUE] * 2),
        (b'{"a": 1,} 5 ', [EXPECTING_VALUE, 5]),
        (b"[1,] 5 ", [EXPECTING_VALUE, 5]),
        (b"[1, 2]] 5 ", [[1, 2], EXPECTING_VALUE, 5]),
        (b", 5 ", [EXPECTING_VALUE, 5]),
        (b'{"a" 1} 5 ', ["! JSON parse error, missing : in object pair", 5]),
        (b"{1: 1} 5 ", ["! JSON parse error, key is not a string in object", 5]),
        (b'{"a": 1 "b"} 5 ', ["! JSON parse error, expected separator in dict", 5]),
        (b"[1 2] 5 ", ["! JSON parse error, expected separator in list", 5]),
        (b'{"a": 1, "a": 2} 5 ', ["! JSON parse error, duplicate key", 5]),
        (b"garbage 5 ", ["! JSON parse error, invalid keyword 'garbage'", 5]),
        (b"NaN\n5 ", ["! JSON parse error, stray 'NaN'", 5]),
        (b"01\n5 ", ["! JSON parse error, stray '01'", 5]),
        (b"1e999 5 ", ["! JSON parse error, the number is too large", 5]),
        (b"1" * 400 + b" 5 ", ["! JSON parse error, the number is too large", 5]),
        (b"\xff5 ", ["! JSON parse error, stray '\ufffd'"]),
        (b"\xff\n5 ", ["! JSON parse error, stray '\ufffd'", 5]),
        (b'\x01{"a": 5}', ["! JSON parse error, stray '\x01'", {"a": 5}]),
        (b'"a\nb"\n5 ', ["! JSON parse error, stray '\"a\n'", 5]),
        (b'"\xc0\x80" 5 ', ["! JSON parse error, invalid UTF-8 sequence in string", 5]),
        (rb'"\ud800" 5 ', ["! JSON parse error, \\ud800 is not a valid Unicode character", 5]),
        (rb'"\q" 5 ', ["! JSON parse error, invalid escape sequence in '\\q'", 5]),
        (rb'"\u12" 5 ', ["! JSON parse error, invalid escape sequence in '\\u12'", 5]),
    ],
)
def test_mistakes_are_told_and_reading_goes_on(data: bytes, values: list[Any]) -> None:
    assert read(data) == read(data, step=1) == values


@pytest.mark.parametrize("unfinished", [b'{"execute": "quit"', b'"abc', b"[[[", b'{"a": "\\'])
def test_a_byte_that_is_no_json_ends_what_is_unfinished(unfinished: bytes) -> None:
    values = read(unfinished + b'\xff{"a": 5}')
    assert len(values) == 2
    assert values[1] == {"a": 5}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        (b"[" + (b'"' + b"x" * 100 + b'",') * (SIZE_LIMIT // 100) + b"1]", "size"),
        (b"[" + b'"' + b"x" * SIZE_LIMIT + b'"' + b"]", "size"),
        (b"[" + b"1," * TOKEN_LIMIT + b"1]", "count"),
        (b"[" * (NESTING_LIMIT + 1) + b"]" * (NESTING_LIMIT + 1), "depth"),
    ],
)
def test_a_message_beyond_the_limits_is_one_error(message: bytes, error: str) -> None:
    values = read(message + b"5 ", step=1000)
    assert len(values) == 2
    assert error in values[0]
    assert values[1] == 5


def test_a_message_at_the_limits_is_read() -> None:
    deep = b"[" * NESTING_LIMIT + b"]" * NESTING_LIMIT
    assert read(deep) == [json.loads(deep)]
    long = b'"' + b"x" * (SIZE_LIMIT - 2) + b'"'
    assert read(long, step=1000) == [json.loads(long)]


def test_endless_strings_and_words_are_not_kept() -> None:
    for endless in (b'"xxxxxxx', b"xxxxxxxx", b"11111111", b" ", b'"\\\\\\\\'):
        reader = JsonReader()
        for _ in range(4 * SIZE_LIMIT // 1000):
            list(reader.feed(endless[:1] + endless[1:] * 1000))
            assert len(reader._buffer) <= SIZE_LIMIT + 8000


def test_endless_nesting_is_not_kept() -> None:
    reader = JsonReader()
    errors = [value for _ in range(20) for value in reader.feed(b'{"a":[' * 1000)]
    assert [str(error) for error in errors] == ["JSON nesting depth limit exceeded"]
    assert len(reader._tokens) == 0


def test_a_long_stray_word_is_cut_in_the_message() -> None:
    (error,) = read(b"x" * 100_000)
    assert len(error) < WORD_LIMIT + 100


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=5), children, max_size=4),
    max_leaves=20,
)


@given(values=st.lists(json_values, max_size=4), ascii_only=st.booleans(), step=st.integers(1, 9))
def test_whatever_python_writes_is_read_in_pieces_of_any_size(values: list[Any], ascii_only: bool, step: int) -> None:
    data = b" ".join(json.dumps(value, ensure_ascii=ascii_only).encode() for value in values) + b" "
    assert read(data, step) == values


@given(
    data=st.binary(max_size=200)
    | st.text('{}[]",:\\u0d8 etruna\x01\xff', max_size=60).map(lambda t: t.encode("latin-1"))
)
def test_any_bytes_are_answered_alike_however_they_are_cut(data: bytes) -> None:
    assert repr(read(data)) == repr(read(data, step=1)) == repr(read(data, step=3))
