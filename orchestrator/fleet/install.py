"""`install(app)`: the composition root of a worker.

Every stage of the registry, there already or defined later, becomes a Celery task under its own name;
two tasks of our own take turns and fire timers; a bootstep starts the services in each worker.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any
from uuid import UUID

from celery import Celery, Task
from celery.exceptions import Ignore
from sqlalchemy.exc import DBAPIError

from orchestrator.core.definition import Registry, Stage, default_registry
from orchestrator.core.failures import clear_frames
from orchestrator.core.hooks import Hooks
from orchestrator.engine.database_errors import is_a_servers_trouble, once_more_if_cut
from orchestrator.engine.fire import fire_all
from orchestrator.engine.hooks import HookCalls
from orchestrator.engine.troubles import kind_of, one_line
from orchestrator.errors import DefinitionError
from orchestrator.fleet import failures
from orchestrator.fleet.async_tasks import is_ending
from orchestrator.fleet.compat import TRACE_LOG, tasks_so_far
from orchestrator.fleet.failures import OnRun
from orchestrator.fleet.forwarding import UnknownTasksStep
from orchestrator.fleet.member import Member
from orchestrator.fleet.outlast import PauseStep
from orchestrator.fleet.services import ServicesStep
from orchestrator.fleet.strangers import give_back_if_strange
from orchestrator.fleet.timer_index import FIRE
from orchestrator.settings import Settings
from orchestrator.store.parts import ADVANCE

POSTGRES = "Postgres"
"""Where a trouble may be."""

# Results live in Postgres, and Postgres redelivers: Celery keeps no result, retries nothing, and
# acknowledges early.
_TASK_OPTIONS: dict[str, Any] = {
    "ignore_result": True,
    "acks_late": False,
    "max_retries": 0,
    "shared": False,
    "store_errors_even_if_ignored": False,
}


def install(
    app: Celery,
    *,
    registry: Registry = default_registry,
    settings: Settings | None = None,
    on_failed: OnRun | None = None,
    on_incident: OnRun | None = None,
    hooks: Sequence[Hooks] = (),
) -> Member:
    """Make a Celery app a member of the fleet. Call it once, where the app is made.

    `settings`: None reads the environment when a worker first needs it.

    `on_failed(report)` is called when a run has failed or expired, `on_incident(report)` when one needs an
    operator: after the commit, in the worker that made it, with a `RunReport`. At most once for each: a worker
    that dies between the two calls nothing, and the record has it all the same. What a hook raises is logged,
    and changes nothing; while it runs, its worker does nothing else.

    `hooks`: plug-ins around each attempt, and told of what is recorded (`orchestrator.Hooks`). The first is the
    outermost. `Member.hook_errors` counts what they have raised.

    Raises DefinitionError for what can't be a hook, and when a stage has the name of a task that the app has already,
    or wraps a task that can't be a stage.
    """
    member = Member(
        app,
        registry,
        settings,
        failures.TaskReports(
            app, on_failed=on_failed, on_incident=on_incident, hooks=HookCalls.of(hooks)
        ),
    )
    logging.getLogger(TRACE_LOG).addFilter(failures.said_once)
    _register(member, ADVANCE, _advance_with(member))
    _register(member, FIRE, _fire_with(member))
    registry.for_each_stage(lambda stage: _register_stage(member, stage))
    app.steps["worker"].add(ServicesStep)
    app.steps["consumer"].add(PauseStep)
    app.steps["consumer"].add(UnknownTasksStep)
    app.perennial = member
    return member


def _register_stage(member: Member, stage: Stage[..., Any]) -> None:
    def work(run_id: str, key: str, attempt: int) -> None:
        member.way.run_stage(run_id, key, attempt)

    def begin_or_finish(run_id: str, key: str, attempt: int) -> bool:
        asynchronous = member.async_tasks
        if asynchronous.finish(run_id, key, attempt):
            return True
        if asynchronous.may_begin():
            return not asynchronous.begin(stage, run_id, key, attempt)
        member.way.run_stage(run_id, key, attempt)
        return True

    if stage.is_asynchronous:  # its own event loop keeps its time
        begin_or_finish.__doc__ = stage.__doc__
        _register(member, stage.name, begin_or_finish, is_asynchronous=True)
        return
    work.__doc__ = stage.__doc__
    _register(member, stage.name, work, soft_time_limit=stage.timeout_seconds)


def _register(
    member: Member, name: str, function: Callable[..., bool | None], **options: Any
) -> None:
    """`function` does what a message asks for; False: its end is yet to come, and to be told."""
    app = member.app
    existing = tasks_so_far(app).get(name)
    if existing is not None and not getattr(existing, "is_perennial", False):
        raise DefinitionError(
            f"the Celery app has a task named {name!r} already",
            where=name,
            remedy="Give the stage another name.",
        )

    # A message that comes twice does no harm. One that each process of a fleet swallows in turn, on the
    # connection that a restart of Postgres has left dead in its pool, waits for one resending after another.
    @wraps(function)
    def once_or_twice(*arguments: Any) -> None:
        with failures.raising_what_fails():
            try:
                comes_by_message = member.way.came_by_message() and not is_ending()
                if comes_by_message and give_back_if_strange(
                    app.current_worker_task, member.record, member.troubles
                ):
                    raise Ignore
                # guard: a cut connection consumes no message
                is_over = once_more_if_cut(lambda: function(*arguments))
            except DBAPIError as error:
                if not is_a_servers_trouble(error):
                    raise
                member.troubles.meet(
                    POSTGRES,
                    "Postgres refuses what a message asks for; it is asked for again when there is hope: %s",
                    one_line(error),
                    kind=kind_of(error),
                    level=logging.ERROR,
                )
                clear_frames(error)
                raise Ignore from None
            member.troubles.over(POSTGRES)
            if is_over is False:
                raise Ignore  # here: Celery copies each frame that it comes through

    options = {"is_asynchronous": False, **_TASK_OPTIONS, **options}
    app.task(name=name, is_perennial=True, after_return=_let_go_of_failure, **options)(
        once_or_twice
    )


def _let_go_of_failure(task: Task, status: str, outcome: object, *rest: Any) -> None:
    """Celery's last hook of a task: all that looks at its failure has done so.

    Tracebacks of the failure, and of what caused it, lead to the tracer's frame, which holds the failure.
    In that circle are some 100 KiB of code positions, as billiard 4 copies them, which Python's collector
    does not count: a worker grew by 50 MiB in two minutes of a full disk.
    """
    super(type(task), task).after_return(status, outcome, *rest)  # as the app's own tasks have it
    failures.end_of_task()
    # guard: a failure is let go
    clear_frames(outcome if isinstance(outcome, BaseException) else None)


def _advance_with(member: Member) -> Callable[..., None]:
    def perennial_advance(run_id: str, *others: str) -> None:
        """Take a run's turn, or those of several. Older workers take the first, and a relay sends the others."""
        member.way.advance([UUID(each) for each in (run_id, *others)])

    return perennial_advance


def _fire_with(member: Member) -> Callable[..., None]:
    def perennial_fire(timer_ids: str) -> None:
        """Fire. The turn that follows on one timer is taken here and now, those of a crowd by the whole fleet."""
        due = [UUID(timer_id) for timer_id in timer_ids.split(",")]
        handoffs, _failed = fire_all(member.context, due)
        if len(due) == 1 and handoffs and handoffs[0].task == ADVANCE:
            member.way.advance([handoffs[0].run_id])
        else:
            member.context.messenger.hand_off(handoffs)

    return perennial_fire
