"""Finding the Celery app that holds the stages, as `celery -A` finds it."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.cli.failures import AppNotFound
from orchestrator.errors import PerennialError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from orchestrator.cli.session import Session
    from orchestrator.core.definition import Process


def load_app(session: Session) -> Any:
    """Import the session's app and the modules it names: what they define is registered.

    The app may read where its servers are when it is imported, so it gets the session's URLs.

    Raises AppNotFound, and lets a DefinitionError of the app's own code through.
    """
    from celery.app.utils import find_app

    here = str(Path.cwd())
    if here not in sys.path:  # a console script doesn't look where it is called
        sys.path.insert(0, here)
    os.environ |= session.environment()
    try:
        app = find_app(session.app)
        app.loader.import_default_modules()
    except PerennialError:
        raise
    except Exception as error:
        raise AppNotFound(_why(session.app, error)) from error
    return app


def registered_processes() -> list[Process]:
    """Every process that the imported modules have defined, in order of name and version."""
    from orchestrator.core.definition import default_registry

    return [process for _, process in sorted(default_registry.processes.items())]


def consumed_queues(app: Any, processes: Iterable[Process]) -> list[str] | None:
    """What a worker must consume for every stage and process to be served; None if the app says."""
    from orchestrator.core.definition import default_registry
    from orchestrator.fleet.alarms import FIRE
    from orchestrator.fleet.routes import Routes
    from orchestrator.store.outbox import ADVANCE

    if app.conf.task_queues:
        return None
    routes = Routes(app, default_registry)
    queues = {
        routes.queue_of(stage.name, stage.queue) for stage in default_registry.stages.values()
    }
    queues |= {routes.queue_of(ADVANCE, process.queue) for process in processes}
    return sorted({app.conf.task_default_queue, routes.queue_of(FIRE, None), *queues})


def _why(name: str, error: Exception) -> str:
    module = name.partition(":")[0]
    if (
        isinstance(error, ModuleNotFoundError)
        and error.name
        and f"{module}.".startswith(f"{error.name}.")
    ):
        return (
            f"there is no module {error.name!r} to import the Celery app {name!r} from "
            f"(looked from {Path.cwd()}). Name yours: --app module:app, or PERENNIAL_APP."
        )
    what = f"{type(error).__name__}: {error}{_place(error)}"
    return f"the Celery app {name!r} can't be imported: {what}. Mend it, and try again."


def _place(error: Exception) -> str:
    """The user's own line: the last frame outside of installed packages and frozen importers."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if (
            not frame.filename.startswith("<")
            and f"{os.sep}site-packages{os.sep}" not in frame.filename
        ):
            if Path(frame.filename) == Path(__file__):
                break
            return f" ({frame.filename}:{frame.lineno})"
    return ""
