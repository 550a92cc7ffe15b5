"""What pytest wants to hear at the root: where the tests' shared fixtures are, see `tests/support`."""

from __future__ import annotations

pytest_plugins = ["emulators"]
