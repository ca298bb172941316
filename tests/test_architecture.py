"""The cuts between the packages, held by reading their source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("bt", "transports", "launchers")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES}
PURE = (
    "bt.protocol",
    "bt.events",
    "bt.fanout",
    "bt.incarnation",
    "bt.others",
    "bt.pulls",
    "bt.schedule",
    "bt.transfer",
    "bt.trust",
    "bt.versions",
)
MAX_LINES = 400


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): TREES[path] for path in SOURCES}


def imports(node: ast.AST, *, when_run: bool) -> Iterator[str]:
    """Every imported name, dotted; `when_run` leaves out what only type checkers read."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                assert level == 0, "imports are absolute here"
                yield from (f"{module}.{name.name}" for name in names)
            case ast.If(test=ast.Name(id="TYPE_CHECKING")) if when_run:
                pass
            case _:
                yield from imports(child, when_run=when_run)


def reached(start: str) -> set[str]:
    """All that importing the module `start` imports, our own modules and others' names."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        while name not in MODULES and name.partition(".")[0] in PACKAGES:
            name = name.rpartition(".")[0]  # a name in a module
        if name in found:
            continue
        found.add(name)
        if name in MODULES:
            waiting += [*imports(MODULES[name], when_run=True), name.rpartition(".")[0] or name]
    return found


def outsiders(names: set[str]) -> set[str]:
    tops = {name.partition(".")[0] for name in names}
    return tops - set(PACKAGES) - sys.stdlib_module_names


@pytest.mark.parametrize("package", ["transports", "launchers"])
def test_transports_and_launchers_know_nothing_of_the_product(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        for name in imports(TREES[path], when_run=False):
            top = name.partition(".")[0]
            assert top not in set(PACKAGES) - {package}, f"{path} imports {name}"


@pytest.mark.parametrize("module", PURE)
def test_the_protocol_is_pure(module: str) -> None:
    assert not outsiders(set(imports(MODULES[module], when_run=False)))
    # no tensors, sockets or clock anywhere below
    assert not outsiders(reached(module))
    mine = {name for name in reached(module) if name.partition(".")[0] == "bt"}
    assert mine <= {"bt", *PURE}
    clock = {"time", "socket", "threading", "asyncio", "datetime"}
    assert not clock & set(imports(MODULES[module], when_run=False))


def test_only_the_runner_and_what_starts_it_see_transports_and_trainers() -> None:
    both = {
        name
        for name in MODULES
        if {"transports.base", "bt.trainer"} <= {module_of(i) for i in direct(name)}
    }
    assert both <= {"bt.runner", "bt.node", "bt.peer", "bt.errors"}


def direct(name: str) -> set[str]:
    return set(imports(MODULES[name], when_run=False))


def module_of(name: str) -> str:
    return name if name in MODULES else name.rpartition(".")[0]


def test_nothing_received_or_stored_can_execute() -> None:
    forbidden = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}
    calls = {("torch", "save"), ("torch", "load"), ("np", "save"), ("np", "load")}
    for path, tree in TREES.items():
        tops = {name.partition(".")[0] for name in imports(tree, when_run=False)}
        assert not tops & forbidden, path
        for node in ast.walk(tree):
            match node:
                case ast.Attribute(value=ast.Name(id=module), attr=attribute):
                    assert (module, attribute) not in calls, f"{path}:{node.lineno}"
                case ast.Call(func=ast.Name(id="eval" | "exec")):
                    pytest.fail(f"{path}:{node.lineno} calls eval or exec")


def test_output_goes_through_the_console() -> None:
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            match node:
                case ast.Call(func=ast.Name(id="print")):
                    pytest.fail(f"{path}:{node.lineno} prints")


def test_no_file_is_longer_than_it_should_be() -> None:
    files = [*SOURCES, *(ROOT / "tests").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    long = {str(p): n for p in files if (n := len(p.read_text().splitlines())) > MAX_LINES}
    assert not long


def test_help_does_not_wait_for_torch() -> None:
    code = """
import sys
import bt.cli
sys.argv = ["bt", "--help"]
try:
    bt.cli.main()
except SystemExit as exc:
    assert not exc.code, exc.code
slow = {"torch", "numpy", "scipy", "nibabel", "zmq", "mpi4py"} & set(sys.modules)
assert not slow, slow
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert "train" in ended.stdout
