"""The pure kernel: definitions, the journal, replay and policy. No I/O, no clock, no randomness."""
