"""An operator's verbs on one run that has stopped, or should go another way: what each would do, decided purely.

    standing   the run as one look has found it, and the code at hand
    change     what a verb writes; the preview of it, with its digest
    retry      a failed run, or an incident, goes on from where it stopped
    settle     an activity gets its end by hand: skip, complete, fail; or other arguments
    rewind     what lies behind a point leaves the journal
    fork       a copy of the run, from a point

None reads a clock or writes. `store.transitions.reenter` writes a change, `engine.operations` puts the two together.
"""
