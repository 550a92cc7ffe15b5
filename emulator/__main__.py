"""`python -m emulator` is the `mini-qemu` command."""

import sys

from emulator.cli import main

sys.exit(main())
