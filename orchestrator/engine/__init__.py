"""The engine: what Perennial does to a run, each verb in its own transaction.

    start     a producer starts runs                deliver   signals and decisions reach a run
    stage     a worker claims and works             fire      a timer comes due
    turn      the flow goes over its journal        recover   what was left undone is done
    deploy    definitions become immutable          operations/   what operators do to runs

There is one way forward, `turn.advance`; a crash, a redelivery and an operator's word all go through it.
"""
