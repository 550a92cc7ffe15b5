from __future__ import annotations

import pytest

from emulator.chardev.spec import ChardevSpec, parse_chardev
from emulator.core.errors import ChardevError


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("stdio", ChardevSpec("stdio")),
        ("mon:stdio", ChardevSpec("stdio", mux=True)),
        ("null", ChardevSpec("null")),
        ("pty", ChardevSpec("pty")),
        ("mon:pty", ChardevSpec("pty", mux=True)),
        ("file:a,b=c:d", ChardevSpec("file", path="a,b=c:d")),
        ("unix:/run/s", ChardevSpec("unix", path="/run/s")),
        ("unix:/run/s,server", ChardevSpec("unix", path="/run/s", server=True)),
        ("unix:/run/s,server=on,wait=off", ChardevSpec("unix", path="/run/s", server=True, wait=False)),
        ("unix:/run/s,server,nowait", ChardevSpec("unix", path="/run/s", server=True, wait=False)),
        ("unix:a,,b,server=off", ChardevSpec("unix", path="a,b")),
        ("tcp:localhost:4444", ChardevSpec("tcp", host="localhost", port=4444)),
        ("tcp::0,server=on,wait=on", ChardevSpec("tcp", port=0, server=True)),
        ("tcp:[::1]:65535,server,nowait", ChardevSpec("tcp", host="::1", port=65535, server=True, wait=False)),
        ("mon:tcp:h:1,nodelay", ChardevSpec("tcp", mux=True, host="h", port=1, nodelay=True)),
        ("tcp:h:1,nodelay=on,server=on", ChardevSpec("tcp", host="h", port=1, nodelay=True, server=True)),
    ],
)
def test_spellings(text, spec):
    assert parse_chardev(text) == spec


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a character device"),
        ("stdoi", "not a character device"),
        ("nul", "not a character device"),
        ("null,server", "not a character device"),
        ("stdio:", "not a character device"),
        ("mon:", "not a character device"),
        ("mon:mon:stdio", "not a character device"),
        ("tcp", "not a character device"),
        ("unix", "not a character device"),
        ("TCP:h:1", "not a character device"),
        ("file:", "file:PATH"),
        ("unix:", "unix:PATH"),
        ("unix:,server", "unix:PATH"),
        ("tcp:4444", "tcp:HOST:PORT"),
        ("tcp:h:", "tcp:HOST:PORT"),
        ("tcp:::1:4444", "brackets"),
        ("tcp:h:65536", "0 to 65535"),
        ("tcp:h:-1", "0 to 65535"),
        ("tcp:h:http", "0 to 65535"),
        ("tcp:h:²", "0 to 65535"),
        ("tcp:h:" + "9" * 10000, "0 to 65535"),
        ("tcp:h:1,sever=on", "unknown option 'sever=on'"),
        ("tcp:h:1,server,nowiat", "unknown option 'nowiat'"),
        ("tcp:h:1,", "unknown option ''"),
        ("tcp:h:1,server=yes", "on or off"),
        ("tcp:h:1,server=", "on or off"),
        ("tcp:h:1,wait=off", "server only"),
        ("unix:p,nowait", "server only"),
        ("unix:p,nodelay=on", "unknown option"),
        ("tcp:h:1,telnet=on", "telnet is not supported"),
        ("tcp:h:1,reconnect=1", "reconnect is not supported"),
        ("pipe:/tmp/p", "not supported"),
        ("vc", "not supported"),
        ("vc:80Cx24C", "not supported"),
        ("udp::1", "not supported"),
        ("telnet:h:1,server", "not supported"),
        ("chardev:c0", "not supported"),
        ("/dev/ttyS0", "not supported"),
    ],
)
def test_refusals_are_one_clear_line(text, complaint):
    with pytest.raises(ChardevError) as caught:
        parse_chardev(text)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)
