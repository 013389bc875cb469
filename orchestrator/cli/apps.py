"""Finding the Celery app that holds the stages, as `celery -A` finds it."""

from __future__ import annotations

import os
import sys
import traceback
from importlib.util import find_spec
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
    from celery import Celery
    from celery.app.utils import find_app

    here = look_here()
    os.environ |= session.environment()
    if not session.names_app and not is_there(session.app):
        raise AppNotFound(
            f"no Celery app is named, and there is no {session.app} in {here}. "
            "Name yours: --app module:app, or PERENNIAL_APP."
        )
    try:
        app = find_app(session.app)
        if isinstance(app, Celery):
            app.loader.import_default_modules()
    except PerennialError:
        raise
    except Exception as error:
        raise AppNotFound(_why(session.app, error)) from error
    if not isinstance(app, Celery):
        raise AppNotFound(_no_app(session.app, app))
    return app


def load_app_if_there(session: Session) -> str:
    """The same for what can do with less. Empty: it is imported; else why not, and what to do.

    Raises AppNotFound for an app that the caller has named.
    """
    try:
        load_app(session)
    except (AppNotFound, PerennialError) as error:
        if session.names_app:
            raise
        if isinstance(error, AppNotFound):
            return str(error)
        return (
            f"no app is named, and {session.app} can't be imported here ({error}). Name yours: --app module:app, or "
            "PERENNIAL_APP."
        )
    return ""


def look_here() -> str:
    """Import from the working directory too; its path. A console script doesn't look where it is called."""
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    return here


def is_there(module: str) -> bool:
    """Whether a module can be imported from here. Whatever else is wrong with it, it is there."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
    except Exception:  # noqa: BLE001 - a package's own error, which its import will tell
        return True


def registered_processes() -> list[Process]:
    """Every process that the imported modules have defined, in order of name and version."""
    from orchestrator.core.definition import default_registry

    return [process for _, process in sorted(default_registry.processes.items())]


def consumed_queues(app: Any, processes: Iterable[Process]) -> list[str] | None:
    """What a worker must consume for every stage and process to be served; None if the app says."""
    from orchestrator.core.definition import default_registry
    from orchestrator.fleet.routes import Routes
    from orchestrator.fleet.timer_index import FIRE
    from orchestrator.store.parts import ADVANCE

    if app.conf.task_queues:
        return None
    routes = Routes(app, default_registry)
    queues = {
        routes.queue_of(stage.name, stage.queue) for stage in default_registry.stages.values()
    }
    queues |= {routes.queue_of(ADVANCE, process.queue) for process in processes}
    return sorted({app.conf.task_default_queue, routes.queue_of(FIRE, None), *queues})


def _no_app(name: str, found: object) -> str:
    return f"{name} is no Celery app but {_article(found)}. Name yours: --app module:app, or PERENNIAL_APP."


def _article(found: object) -> str:
    kind = "class" if isinstance(found, type) else type(found).__name__
    return f"an {kind}" if kind[0] in "aeiouAEIOU" else f"a {kind}"


def _has_no(module: str, name: str) -> str:
    """The module is there, and what was named in it isn't."""
    from celery import Celery

    apps = [each for each, value in vars(sys.modules[module]).items() if isinstance(value, Celery)]
    has = f"it has {' and '.join(map(repr, apps))}" if apps else "it has no Celery app at all"
    return f"the module {module!r} has no {name!r}: {has}. Name yours: --app module:app."


def _why(name: str, error: Exception) -> str:
    module, _, attribute = name.partition(":")
    if "/" in name or name.endswith(".py"):
        dotted = module.removesuffix(".py").strip("./").replace("/", ".")
        return f"{name!r} is a path, and an app is named by its module: --app {dotted}"
    is_of_the_name = isinstance(error, ModuleNotFoundError) and error.name == name
    if isinstance(error, AttributeError) or is_of_the_name:
        # Celery takes what has no such attribute for a module's name, and tells of that.
        outer, _, last = name.rpartition(".")
        for each, missing in ((module, attribute or "app"), (outer, last)):
            if each and each in sys.modules and not hasattr(sys.modules[each], missing):
                return _has_no(each, missing)
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
