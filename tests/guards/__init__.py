"""Guard the guards: each is cut out of a copy of the source, and named tests must go red.

    guards     the list: what each guard protects, how it is cut out, which tests miss it
    markers    where each stands: `guard: ` and its name, in the source; and the source without it
    cutting    a copy of the repository, a cut in it, the named tests over it, and a verdict
    preloaded  pytest in a new process each time, without a second of imports
    witness    a plugin of pytest in the copy: whose code it is, and what each test died of

`make guards` shows guard → test → red; `tests/guards/test_guards.py` is the same in the test suite.
"""
