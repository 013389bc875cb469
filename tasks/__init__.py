"""Reference processes, one folder each."""
