"""Perennial measured beside what it replaces, on this machine: `python -m benchmarks.bench`, `make bench`."""
