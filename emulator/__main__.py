"""`python -m emulator` is the `mini-qemu` command."""

import sys

try:
    from emulator.cli import main

    status = main()
except KeyboardInterrupt:  # while modules are loaded
    status = 130
sys.exit(status)
