"""Measurements: of the machine, and of Ingot beside others. Run from a clone: `python -m bench.NAME`."""
