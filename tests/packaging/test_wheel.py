"""The wheel holds `orchestrator` alone, and all of it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "orchestrator"


@pytest.fixture(scope="module")
def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_orchestrator_is_its_only_top_level_package(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert tops == {"orchestrator", "celery_perennial-0.1.0.dist-info"}


def test_it_holds_every_file_of_the_package(names: set[str]) -> None:
    ours = {
        path.relative_to(ROOT).as_posix()
        for path in PACKAGE.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {name for name in names if name.startswith("orchestrator/")} == ours


def test_it_is_typed_and_carries_its_migrations_scripts_and_licence(names: set[str]) -> None:
    assert "orchestrator/py.typed" in names
    assert any(name.startswith("orchestrator/store/schema/migrations/versions/") for name in names)
    assert any(name.endswith(".lua") for name in names)
    assert "celery_perennial-0.1.0.dist-info/licenses/LICENSE" in names


def test_it_installs_the_perennial_command(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.read("celery_perennial-0.1.0.dist-info/entry_points.txt").decode()
    assert "perennial = orchestrator.cli:main" in entries


def test_pytest_finds_its_plugin(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        entries = archive.read("celery_perennial-0.1.0.dist-info/entry_points.txt").decode()
    assert "[pytest11]\nperennial = orchestrator.testing.plugin" in entries


def test_it_does_not_depend_on_kombus_redis_extra(wheel: Path) -> None:
    """Guards the dependency list: kombu[redis] pins `packaging` for everybody."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read("celery_perennial-0.1.0.dist-info/METADATA").decode()
    assert "Requires-Dist: kombu>=" in metadata
    assert "Requires-Dist: redis>=" in metadata


@pytest.mark.parametrize("module", ["tasks", "workers"])
def test_a_users_own_module_is_never_shadowed(wheel: Path, tmp_path: Path, module: str) -> None:
    installed = tmp_path / "site-packages"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    application = tmp_path / "application"
    application.mkdir()
    (application / f"{module}.py").write_text("WHOSE = 'the user'\n")

    # Ours comes first on the path, so ours would win if the wheel had a module of that name.
    script = (
        "import sys\n"
        f"sys.path[:0] = [{str(installed)!r}, {str(application)!r}]\n"
        "import orchestrator\n"
        f"import {module}\n"
        f"print({module}.WHOSE, *(orchestrator.__path__), sep='\\n')\n"
    )
    # -I: neither the working directory nor the environment of this test takes part.
    done = subprocess.run(
        [sys.executable, "-I", "-c", script],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["the user", str(installed / "orchestrator")]
