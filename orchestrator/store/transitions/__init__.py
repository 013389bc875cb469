"""What writes the record: each transition one statement, fenced, and made of `store.parts`.

    start       a run begins
    claim       an attempt is taken, its steps are remembered, and it is taken back for a retry
    turns       a turn is held, released, and freed of a dead holder
    commit      a turn's end: all that it writes
    settle      an attempt's end without a turn
    callbacks   a partner's token is handed on, and comes back with an answer
    correlations  a signal by a key meets the wait that claims it
    outside     a fact from outside: a signal, a decision (signals, approvals), an answer
    fire        timers come due
    recovery    what a lost attempt or a lost turn changes
    close       a run is ended, paused or resumed from outside
    reenter     an operator's verb lets a run go another way
    migrate     a run moves to another version, and back (undo_migration)
    fork        a copy of a run
    outbox      handoffs: asked for, sent again, put back, forgotten
    timers      timers are taken to the index, and found when they are late
    capabilities  what each living worker can run, and what waits for one that can
    workers     heartbeats, and the attempts of workers that have none
    exits       how a worker's child ended, noted in history
    processes   definitions

Lock order, in a statement and in a transaction of several: run, timer, approval, activity, outbox. A correlation key
is locked after its run, and by whoever has no run. A row that is
new is in nobody's way; history, votes and signals are written by whoever has the run.

- What changes a run locks its row before anything else of it: the other parts of a statement need its `fence`.
  Among themselves Postgres runs them in an order of its own (data-modifying CTEs that don't need each other), which
  is no matter: whoever else changes the run waits at its row, and holds nothing of it.
- A claim and a step's memory don't lock the run, so that a hundred stages of one run can be claimed at once. A claim
  takes its activity, then its handoff. So does whatever ends a run: activities, then their handoffs.
- Whatever takes rows of many runs, a batch or a share of the outbox or of the timers, leaves out those that are
  locked (SKIP LOCKED), and waits for none. Starts of many alone wait, for keys, in the order of keys.

tests/store/test_lock_order.py reads this from the statements' plans.
"""
