"""`mini-qemu` and `python -m emulator`: the command, with Ctrl-C caught even while its modules are loaded."""

from __future__ import annotations

import sys


def main() -> int:
    """The command's exit status."""
    try:
        from emulator.cli import main as run
    except KeyboardInterrupt:
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
