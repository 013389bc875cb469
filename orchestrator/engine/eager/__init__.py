"""Speed in one room: what a worker does at once, where the rule would be a message, or a statement for each run.

    execution.py        a worker does the stage that its own commit has opened, without a message
    batch.py            many runs side by side, whose statements are one
    call_durations.py   which calls are short enough for a batch to wait for
    starts.py           starts of a client's threads, in one statement (group_commit.py)

The main path knows four seams. Three are in `engine.context`: `may_take`, which by default hands every stage off by a
message; `batch`, which by default is none; and `call_durations`, which by default notes nothing. The fourth is
`Starts`, a client's, of which `GroupedStarts` is another form. How it looks to Celery is `fleet.eager`.
"""
