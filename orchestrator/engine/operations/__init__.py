"""What operators do to runs, one module a verb. Each shows first what it would do.

causes     what failed, by cause, and what is said of it
"""
