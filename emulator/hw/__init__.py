"""Layer 2: one chip a file. No chip imports another; the board wires them."""
