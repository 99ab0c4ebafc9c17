"""What exact progress costs, measured beside its alternatives: ``python -m tests.benchmarks`` (see README.md)."""
