"""DBOS's side: a workflow of five steps, in a process of its own with its own packages.

    python dbos_program.py DATABASE_URL EXECUTOR THREADS

Its standard input says `run COUNT`; it answers with when the first workflow was started and the last one
ended, in seconds of Unix time. It imports nothing of ours.
"""

from __future__ import annotations

import sys
import time

from dbos import DBOS, DBOSConfig


@DBOS.step()
def add_one(number: int) -> int:
    """The least that a step can do."""
    return number + 1


@DBOS.workflow()
def five_steps(number: int) -> int:
    """Five of them."""
    for _ in range(5):
        number = add_one(number)
    return number


def main() -> None:
    """Launch, and do as is said."""
    database_url, executor, threads = sys.argv[1:]
    config: DBOSConfig = {
        "name": "bench",
        "system_database_url": database_url,
        "executor_id": executor,
        "log_level": "WARNING",
        "max_executor_threads": int(threads),
    }
    DBOS(config=config)
    DBOS.launch()
    tell("ready")
    for line in sys.stdin:
        began = time.time()
        run(int(line.split()[1]), is_threaded=int(threads) > 1)
        tell(f"{began} {time.time()}")
    DBOS.destroy()


def run(count: int, *, is_threaded: bool) -> None:
    """Workflows, one after the other or all at once."""
    if is_threaded:
        handles = [DBOS.start_workflow(five_steps, number) for number in range(count)]
        for handle in handles:
            handle.get_result()
    else:
        for number in range(count):
            five_steps(number)


def tell(line: str) -> None:
    """To whoever reads us."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
