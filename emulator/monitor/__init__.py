"""Layer 5: the monitor: one table of commands, and the ways to call it."""
