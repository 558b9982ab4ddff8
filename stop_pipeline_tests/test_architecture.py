"""Which module may import which, what stays small, and what importing the package must not load."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "stop_pipeline"
MODULES = sorted(PACKAGE.rglob("*.py"))
MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 60
LONGEST_CHAIN = 10

every_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


NAMES = {name_of(path) for path in MODULES}


def imported(path: Path) -> set[str]:
    """Every module that a module imports, at its top or inside a function."""
    names: set[str] = set()
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def is_within(name: str, package: str) -> bool:
    return name == package or name.startswith(f"{package}.")


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


# Who imports whom


ABOVE = ("campaign", "defs", "sync", "snapshot", "definitions", "local_dagster")


@every_module
def test_the_source_and_the_tables_know_neither_each_other_nor_dagster_nor_what_uses_them(path: Path) -> None:
    other = {"smspartner": "table", "table": "smspartner"}.get(path.relative_to(PACKAGE).parts[0])
    forbidden = ["dagster", *(f"stop_pipeline.{name}" for name in (other, *ABOVE))] if other else []
    assert not [name for name in imported(path) if any(is_within(name, package) for package in forbidden)]


DAGSTER_SIDE = {"defs", "definitions.py", "local_dagster.py"}


@every_module
def test_dagster_is_imported_by_its_own_side_alone_and_nothing_private_of_it(path: Path) -> None:
    names = {name for name in imported(path) if is_within(name, "dagster")}
    assert not names or path.relative_to(PACKAGE).parts[0] in DAGSTER_SIDE
    assert not [name for name in names if any(part.startswith("_") for part in name.split("."))]
    assert "dagster._" not in path.read_text()


def test_the_longest_chain_of_imports_is_short() -> None:
    arrows = {name_of(path): (imported(path) & NAMES) - {name_of(path)} for path in MODULES}

    @cache
    def longest(name: str, above: frozenset[str] = frozenset()) -> tuple[str, ...]:
        below = [longest(other, above | {name}) for other in sorted(arrows[name] - above)]
        return (name, *max(below, key=len, default=()))

    chain = max(map(longest, arrows), key=len)
    assert len(chain) <= LONGEST_CHAIN, " > ".join(chain)


# What a module looks like


@every_module
def test_a_module_opens_by_saying_what_it_is_for_and_stays_short(path: Path) -> None:
    assert ast.get_docstring(parsed(path))
    assert len(path.read_text().splitlines()) <= MOST_LINES


@every_module
def test_no_function_is_longer_than_a_screen_or_two(path: Path) -> None:
    for function in functions(path):
        assert function.end_lineno is not None
        lines = function.end_lineno - function.lineno + 1
        assert lines <= MOST_LINES_OF_A_FUNCTION, f"{function.name}: {lines} lines"


@every_module
def test_imports_are_at_the_top_whoever_needs_them(path: Path) -> None:
    assert "TYPE_CHECKING" not in path.read_text()
    if path.name != "cli.py":
        inside = [node for function in functions(path) for node in ast.walk(function)]
        assert not [node.lineno for node in inside if isinstance(node, ast.Import | ast.ImportFrom)]


# What importing the package loads


def loaded_by(statement: str) -> set[str]:
    code = f"import atexit, sys\natexit.register(lambda: print(*sorted(sys.modules)))\n{statement}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split("\n")[-2].split())


def test_a_notebook_that_reads_loads_no_dagster_and_no_http() -> None:
    loaded = loaded_by(
        "import stop_pipeline\n"
        "from stop_pipeline import read_rejected, read_stops, read_stops_per_day, read_suppression_list, suppress"
    )
    assert "pandas" in loaded
    assert not loaded & {"dagster", "requests", "urllib3", "matplotlib", "stop_pipeline.smspartner.client"}


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_by(
        "import click, contextlib\nfrom stop_pipeline.cli import main\n"
        "for arguments in (['--help'], ['--version'], ['run', '--help']):\n"
        "    with contextlib.suppress(SystemExit):\n        main(arguments, standalone_mode=False)"
    )
    assert "stop_pipeline.cli" in loaded
    assert not loaded & {"pandas", "pyarrow", "numpy", "dagster", "requests", "phonenumbers", "matplotlib"}


def test_importing_the_package_alone_loads_next_to_nothing() -> None:
    loaded = loaded_by("import stop_pipeline")
    assert not loaded & {"pandas", "pyarrow", "numpy", "dagster", "click"}
