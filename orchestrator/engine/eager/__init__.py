"""Speed in one room: what a worker does at once, where the rule would be a message, or a statement for each run.

    in_place.py   going on with the stage that the commit has opened
    together.py   many runs side by side, whose statements are one

The main path knows two seams, both in `engine.context`: `may_take`, which by default hands every stage off by a
message, and `others`, which by default are none. How it looks to Celery is `fleet.eager`.
"""
