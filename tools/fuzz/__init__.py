"""Fuzzers for what Ingot reads from strangers: `python -m tools.fuzz TARGET`; docs/trust.md is the guide."""
