"""Layer 0: what every other part stands on. Nothing here imports more than the standard library."""
