"""Layer 2: the vCPU. `engine.py` is the only file of the package that imports unicorn."""
