"""Layer 1: QEMU's migration wire; the description of a device's state, to bytes and back."""
