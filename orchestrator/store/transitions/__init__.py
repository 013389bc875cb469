"""What writes the record: each transition one statement, fenced, and made of `store.parts`.

start       a run begins
claim       an attempt is taken, remembered, and taken back for a retry
turns       a turn is held, let go, and freed of a dead holder
commit      a turn's end: all that it writes
settle      an attempt's end without a turn
close       a run is ended, paused or resumed from outside
outbox      handoffs: asked for, sent again, put back, forgotten
timers      due timers are locked, fired and cancelled, and taken to the index
workers     heartbeats, and the attempts of workers that have none
exits       how a worker's child ended, noted in history
processes   definitions
"""
