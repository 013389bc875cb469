"""`make demo` (`python -m demo`): real approval histories, replayed on real servers and
held to an oracle.

    log.py       an XES log -> the requests in it and how long each person took
    oracle.py    what those delays alone say must happen
    plan.py      the same requests as the runs to start and the decisions to take
    people.py    a process of its own that starts the runs and decides, through the public Client
    reference.py the reference fleet's code, `workers/` and `tasks/`
    fleet.py     the servers and the worker processes: started, hurt on purpose, stopped
    record.py    what the record says became of each run
    verdict.py   record against oracle, run by run
    report.py    the verdict and the measurements, as tables or as a document
    main.py      `run_demo`: the story above from beginning to end

`make_sample.py` made `sample.xes`. An hour of the log is compressed to `hour_seconds`; the
process's deadlines shrink alike.
"""

from demo.main import DemoOptions, run_demo

__all__ = ["DemoOptions", "run_demo"]
