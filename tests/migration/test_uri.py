"""URIs of streams: what each spelling means, and one clear line for what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emulator.core.errors import ConfigError
from emulator.migration.uri import Address, parse_uri


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp:127.0.0.1:4444", Address("tcp", host="127.0.0.1", port=4444)),
        ("tcp:localhost:0", Address("tcp", host="localhost")),
        ("tcp::65535", Address("tcp", port=65535)),
        ("tcp:0.0.0.0:1", Address("tcp", host="0.0.0.0", port=1)),
        ("tcp:[::1]:4444", Address("tcp", host="::1", port=4444)),
        ("tcp:[::]:4444", Address("tcp", host="::", port=4444)),
        ("unix:/tmp/a b,c:d", Address("unix", path="/tmp/a b,c:d")),
        ("exec:cat > 'a:b,offset=1'", Address("exec", command="cat > 'a:b,offset=1'")),
        ("fd:7", Address("fd", fd=7)),
        ("file:state", Address("file", path="state")),
        ("file:/a,b:c", Address("file", path="/a,b:c")),
        ("file:state,offset=0x1000", Address("file", path="state", offset=0x1000)),
        ("file:state,offset=4096", Address("file", path="state", offset=4096)),
        ("file:state,offset=4K", Address("file", path="state", offset=4096)),
        ("file:state,offset=1m", Address("file", path="state", offset=1 << 20)),
        ("file:state,offset=16B", Address("file", path="state", offset=16)),
    ],
)
def test_spellings(text: str, address: Address) -> None:
    assert parse_uri(text) == address
    assert parse_uri(str(address)) == address


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is not a migration address"),
        ("tcp", "is not a migration address"),
        ("rdma:host:1", "there are tcp:HOST:PORT"),
        ("TCP:host:1", "is not a migration address"),
        ("tcp:", "expected tcp:HOST:PORT"),
        ("tcp:4444", "expected tcp:HOST:PORT"),
        ("tcp:host:", "expected tcp:HOST:PORT"),
        ("tcp:host:http", "port http is not a number from 0 to 65535"),
        ("tcp:host:65536", "port 65536 is not"),
        ("tcp:host:-1", "port -1 is not"),
        ("tcp:host:+1", "port +1 is not"),
        ("tcp:host:1,to=9", "port 1,to=9 is not"),
        ("tcp:host:٣", "is not a number"),
        ("tcp:::1:4444", "in brackets"),
        ("tcp:[]:4444", "in brackets"),
        ("tcp:[::1:4444", "in brackets"),
        ("unix:", "expected unix:PATH"),
        ("unix:a\0b", "expected unix:PATH"),
        ("unix:\ud800", "expected unix:PATH"),
        ("exec:", "expected exec:COMMAND"),
        ("exec:a\0b", "expected exec:COMMAND"),
        ("fd:", "expected fd:N"),
        ("fd:-1", "expected the number of"),
        ("fd:stdin", "expected the number of"),
        ("fd:9999999999", "expected the number of"),
        ("file:", "expected file:PATH"),
        ("file:,offset=4", "expected file:PATH"),
        ("file:a,offset=", "is not a number of bytes"),
        ("file:a,offset=-4", "offset -4 is not a number of bytes"),
        ("file:a,offset=0xg", "is not a number of bytes"),
        ("file:a,offset=4 K", "is not a number of bytes"),
        ("file:a,offset=4K,offset=4K", "is not a number of bytes"),
        ("file:a,offset=9223372036854775808", "beyond what a file can have"),
        ("file:a,offset=9999999T", "beyond what a file can have"),
        ("exec:\0" + "x" * 1000, "expected exec:COMMAND"),
    ],
)
def test_what_is_no_address_is_refused_by_one_line(text: str, why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_uri(text)
    assert why in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@given(st.sampled_from(["", "tcp:", "unix:", "exec:", "fd:", "file:", "file:a,offset="]), st.text())
def test_any_text_is_an_address_or_refused(kind: str, rest: str) -> None:
    try:
        address = parse_uri(kind + rest)
    except ConfigError:
        return
    assert parse_uri(str(address)) == address
    assert address.quoted().isprintable()
