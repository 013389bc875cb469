"""Faults on purpose: real worker processes die, stall and come back at every place of the main path."""
