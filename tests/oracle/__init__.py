"""The random-program oracle: random flows in random trouble, and what must become of them.

    programs   a random program, and the script of its world, as plain data
    predict    what must become of it: pure, and no code of the engine's
    wide       programs of the families wide and deep; wide_predict and wide_flow, what comes of them and who does them
    flow       the process that does what a program says; `effects` counts what it calls
    operators  let runs go another way, in every other seed: skip, complete, fail, retry, rewind, fork
    world      plays the script: signals, decisions, a cancellation; partners, those who answer callbacks
    check      holds the record against the prediction
    tasks      workers that stop at statements; adversary: everything that may go wrong, by one seed

`python -m tests.oracle` (`make oracle`) plays as many seeds as one likes.
"""
