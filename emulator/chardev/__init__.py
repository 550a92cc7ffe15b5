"""Layer 3: character devices: where the bytes of a serial port or monitor go on the host."""
