"""The nemesis: a real fleet under load, and everything that can happen to it, for a given time and seed.

python -m tests.nemesis --seconds 600 --seed 1

theatre   the servers and the workers, and how each is hurt and healed
faults    what is done to them, one function each
load      random programs (tests/oracle) as runs, and the people that they wait for
report    what came of it: every run against its prediction, repeats, memory
"""
