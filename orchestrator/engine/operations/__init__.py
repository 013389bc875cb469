"""What operators do to runs, one module a verb. Each shows first what it would do.

causes     what failed, by cause, and what is said of it
bulk       one verb over many runs, found by a filter; bulk_verbs says which
by_hand    pause, resume, cancel: a run rests, goes on, ends
re_enter   what the others share: a look, a preview, one transition under the run's lock
retry      a failed run, or an incident, goes on from where it stopped
settle     an activity gets its end, or other arguments, by hand
rewind     a run goes back to a point
fork       a copy of a run, for a try
migrate    a plan moves runs to another version
"""
