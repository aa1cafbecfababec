"""Rules about the source itself: who may import whom, how long things may get, what must not be hidden.

Everything is read from the syntax tree; nothing here imports the product except the last test, in a fresh process.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
PRODUCT = ("strategies", "kernels", "server", "clients")
SCRIPTS = ("clients/examples",)  # programs shown to users, not part of any package
SKIPPED = {"node_modules", "__pycache__"}

FILE_LINES = 300
STRATEGY_LINES = 120
FUNCTION_LINES = 60  # a function is shorter than this
TEXT_CHARACTERS = 300
SQL = ("create ", "select ", "insert ", "update ", "delete ", "with ", "pragma ")
HELP = {"help", "description", "summary", "epilog", "documentation"}


class Import(NamedTuple):
    """One imported name; lazy means inside a function."""

    name: str
    line: int
    lazy: bool


@dataclass(frozen=True)
class Source:
    """A Python file of the product."""

    path: str
    text: str

    @property
    def tree(self) -> ast.Module:
        return _parse(self.text)

    @property
    def folder(self) -> str:
        """The part of the architecture it belongs to; the flywheel is a part of its own."""
        return "flywheel" if self.path.startswith("server/flywheel/") else self.path.partition("/")[0]

    @property
    def is_cli(self) -> bool:
        """The command line joins all parts, lazily."""
        return self.path == "server/cli.py" or self.path.startswith("server/commands/")

    @property
    def is_strategy(self) -> bool:
        folder, _, name = self.path.rpartition("/")
        return folder == "strategies" and name not in ("__init__.py", "testing.py")


@cache
def _parse(text: str) -> ast.Module:
    return ast.parse(text)


@cache
def sources() -> tuple[Source, ...]:
    found = (path for part in PRODUCT for path in sorted((ROOT / part).rglob("*.py")) if not SKIPPED & set(path.parts))
    return tuple(Source(path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")) for path in found)


def complaints(check: object) -> list[str]:
    """What `check(source)` finds in the whole product, as `path:line what`."""
    assert callable(check)
    return [f"{source.path}:{found}" for source in sources() for found in check(source)]


# ---------------------------------------------------------------------------------------------- imports

OURS = {
    "kernels": ("strop.kernels",),
    "strategies": ("strop.strategies",),
    "server": ("strop.server", "strop.strategies", "strop.kernels"),
    "flywheel": ("strop.server.flywheel", "strop.server.traffic.schema", "strop.strategies", "strop.kernels"),
    "clients": (
        "strop.clients",
        "strop.strategies.kit.types",
        "strop.strategies.kit.wire",
        "strop.strategies.kit.trace",
    ),
}
LAZILY_IN_CLI = ("strop.server.flywheel", "strop.clients")
BANNED = {
    "strategies": {"torch", "vllm", "transformers", "fastapi", "prometheus_client"},
    "kernels": {"vllm", "fastapi", "pydantic"},
    "server": {"trl", "peft", "datasets"},
    "flywheel": set(),
    "clients": {"torch", "vllm", "transformers", "fastapi"},
}
TOP_LEVEL_NAMES = set(PRODUCT)
IMPORTERS = {"importlib.import_module", "import_module", "__import__"}


def imports(tree: ast.Module) -> Iterator[Import]:
    """Every import, also under TYPE_CHECKING, in functions, and by a constant name through importlib."""
    for node, lazy in _walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, lazy) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from (Import(f"{module}.{alias.name}", node.lineno, lazy) for alias in node.names)
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in IMPORTERS
            and isinstance(node.args[0], ast.Constant)
        ):
            yield Import(str(node.args[0].value), node.lineno, lazy)


def _walk(node: ast.AST, lazy: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    yield node, lazy
    inside = lazy or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, inside)


def _within(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def forbidden_imports(source: Source) -> Iterator[str]:
    for name, line, lazy in imports(source.tree):
        top = name.partition(".")[0]
        if name.startswith("."):
            yield f"{line} imports relatively: {name}"
        elif top in TOP_LEVEL_NAMES:
            yield f"{line} imports {name}: write strop.{name}"
        elif top in BANNED[source.folder]:
            yield f"{line} imports {top}, which {source.folder} may not use"
        elif top == "strop" and not _allowed(source, name, lazy):
            yield f"{line} imports {name}: {source.folder} may import {', '.join(OURS[source.folder])}"


def _allowed(source: Source, name: str, lazy: bool) -> bool:
    if source.is_cli and lazy and _within(name, LAZILY_IN_CLI):
        return True
    if source.folder == "server" and _within(name, ("strop.server.flywheel",)):
        return False
    return _within(name, OURS[source.folder])


def test_every_part_imports_only_what_it_may() -> None:
    assert complaints(forbidden_imports) == []


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("kernels/a.py", "from strop.strategies import kit"),
        ("kernels/a.py", "import pydantic"),
        ("strategies/a.py", "import strop.server.app"),
        ("strategies/a.py", "from strop import server"),
        ("strategies/a.py", "import importlib\nimportlib.import_module('torch')"),
        ("strategies/a.py", "def f():\n    import transformers.utils"),
        ("server/a.py", "from strop.clients import ask"),
        ("server/a.py", "def f():\n    from strop.server.flywheel import gate"),
        ("server/cli.py", "from strop.server.flywheel import gate"),
        ("server/a.py", "from trl import SFTTrainer"),
        ("server/flywheel/a.py", "from strop.server.app import build"),
        ("server/flywheel/a.py", "from strop.server.traffic import writer"),
        ("clients/a.py", "from strop.server.settings import Settings"),
        ("clients/a.py", "from strop.strategies import CATALOGUE"),
        ("server/a.py", "from . import b"),
        ("server/a.py", "from kernels import entropy"),
    ],
)
def test_an_import_against_the_rules_is_found(path: str, line: str) -> None:
    assert list(forbidden_imports(Source(path, line)))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("server/cli.py", "def train():\n    from strop.server.flywheel import gate"),
        ("server/flywheel/a.py", "from strop.server.traffic.schema import Record\nimport trl"),
        ("server/a.py", "from strop.strategies.kit import Chat\nfrom strop.kernels import entropy\nimport fastapi"),
        ("clients/a.py", "from strop.strategies.kit.types import Chat"),
        ("strategies/a.py", "from strop.strategies.kit import Chat\nimport anyio, pydantic"),
    ],
)
def test_an_import_within_the_rules_passes(path: str, line: str) -> None:
    assert list(forbidden_imports(Source(path, line))) == []


# ------------------------------------------------------------------------------------------------ sizes


def long_files(source: Source) -> Iterator[str]:
    limit = STRATEGY_LINES if source.is_strategy else FILE_LINES
    if (lines := len(source.text.splitlines())) > limit:
        yield f"1 has {lines} lines, at most {limit}"


def long_functions(source: Source) -> Iterator[str]:
    for node in ast.walk(source.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines >= FUNCTION_LINES:
                yield f"{node.lineno} {node.name} has {lines} lines, fewer than {FUNCTION_LINES} wanted"


def test_no_file_is_too_long() -> None:
    assert complaints(long_files) == []


def test_no_function_is_too_long() -> None:
    assert complaints(long_functions) == []


def test_the_limits_on_length_are_exact() -> None:
    body = "    pass\n"
    assert not list(long_functions(Source("server/a.py", "def f():\n" + body * 58)))
    assert list(long_functions(Source("server/a.py", "def f():\n" + body * 59)))
    assert not list(long_files(Source("server/a.py", "\n" * 300)))
    assert list(long_files(Source("server/a.py", "\n" * 301)))
    assert list(long_files(Source("strategies/best_of_n.py", "\n" * 121)))
    assert not list(long_files(Source("strategies/kit/run.py", "\n" * 121)))


def test_no_folder_is_called_utils() -> None:
    named = [path for part in PRODUCT for path in (ROOT / part).rglob("util*") if not SKIPPED & set(path.parts)]
    assert named == []


# ------------------------------------------------------------------------------------- hidden failures


def silent_excepts(source: Source) -> Iterator[str]:
    """Broad handlers that never raise, unless their line says why: `except Exception:  # boundary: <why>`."""
    lines = source.text.splitlines()
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ExceptHandler) and _is_broad(node.type):
            explained = lines[node.lineno - 1].partition("# boundary:")[2].strip()
            if not explained and not _raises(node.body):
                yield f"{node.lineno} catches everything in silence"
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func).endswith("suppress")
            and any(map(_is_broad, node.args))
        ):
            yield f"{node.lineno} suppresses everything"


def _is_broad(caught: ast.expr | None) -> bool:
    if isinstance(caught, ast.Tuple):
        return any(map(_is_broad, caught.elts))
    return caught is None or (isinstance(caught, ast.Name) and caught.id in ("Exception", "BaseException"))


def _raises(body: list[ast.stmt]) -> bool:
    """Whether the statements raise themselves; a nested function's raise does not count."""
    nodes: list[ast.AST] = list(body)
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.Raise):
            return True
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            nodes.extend(ast.iter_child_nodes(node))
    return False


def test_no_failure_is_swallowed() -> None:
    assert complaints(silent_excepts) == []


@pytest.mark.parametrize(
    ("handler", "found"),
    [
        ("except Exception:\n    pass", True),
        ("except:\n    x = 1", True),
        ("except (ValueError, BaseException):\n    pass", True),
        ("except Exception:\n    def f(): raise ValueError", True),
        ("except Exception:  # boundary:\n    pass", True),
        ("except Exception as e:\n    if x:\n        raise ValueError from e", False),
        ("except Exception:  # boundary: a broken plug-in must not stop the others\n    pass", False),
        ("except ValueError:\n    pass", False),
    ],
)
def test_a_silent_except_is_found(handler: str, found: bool) -> None:
    assert bool(list(silent_excepts(Source("server/a.py", f"try:\n    f()\n{handler}\n")))) is found


def test_suppressing_everything_is_found() -> None:
    assert list(silent_excepts(Source("server/a.py", "with contextlib.suppress(Exception):\n    f()\n")))
    assert not list(silent_excepts(Source("server/a.py", "with contextlib.suppress(OSError):\n    f()\n")))


# ------------------------------------------------------------------------------------- prompts in code


def long_texts(source: Source) -> Iterator[str]:
    """Text that belongs into a file: long literals that are no docstring, no help text and no SQL."""
    exempt = {id(part) for node in ast.walk(source.tree) for root in _exempt(node) for part in ast.walk(root)}
    for node in ast.walk(source.tree):
        if id(node) in exempt or not isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
            continue
        text = _text(node)
        if len(text) > TEXT_CHARACTERS and not text.lstrip().lower().startswith(SQL):
            yield f"{getattr(node, 'lineno', 0)} holds a text of {len(text)} characters; put it in a file"


def _exempt(node: ast.AST) -> Iterator[ast.AST]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
        yield node.value  # a docstring
    elif isinstance(node, ast.keyword) and node.arg in HELP:
        yield node.value


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(_text, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return ""


def test_prompts_are_not_in_the_code() -> None:
    assert complaints(long_texts) == []


def test_a_long_text_in_the_code_is_found() -> None:
    words = "Judge the answer. " * 20
    for code in (f"X = {words!r}", f"X = f'{words}{{y}}'", f"X = {words[:200]!r} + {words[:200]!r}"):
        assert list(long_texts(Source("server/a.py", code))), code
    for code in (repr(words), f"def f():\n    {words!r}", f"Option(help={words!r})", f"X = {'select ' + words!r}"):
        assert not list(long_texts(Source("server/a.py", code))), code


# ------------------------------------------------------------------------------------------- packaging


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_the_package_list_names_every_folder_of_modules() -> None:
    folders = {source.path.rpartition("/")[0] for source in sources() if not source.path.startswith(SCRIPTS)}
    wanted = {"strop." + folder.replace("/", ".") for folder in folders}
    listed = pyproject()["tool"]["setuptools"]["packages"]
    assert wanted - set(listed) == set(), "not in `packages` of pyproject.toml"
    assert set(listed) - wanted == set(), "in `packages` of pyproject.toml, but no such folder"
    assert [folder for folder in folders if not (ROOT / folder / "__init__.py").exists()] == []


def test_the_type_checker_sees_the_same_folders_as_the_build() -> None:
    """`.types/strop` holds one link for each folder that `package-dir` maps."""
    mapped = {
        name: (ROOT / folder).resolve() for name, folder in pyproject()["tool"]["setuptools"]["package-dir"].items()
    }
    linked = {f"strop.{link.name}": link.resolve() for link in (ROOT / ".types" / "strop").iterdir()}
    assert linked == mapped


def test_the_import_graph_of_the_modules_has_no_cycle() -> None:
    graph = {module: sorted(targets - {module}) for module, targets in _graph().items()}
    assert _cycle(graph) is None


def test_a_cycle_of_imports_is_found() -> None:
    assert _cycle({"a": ["b"], "b": ["c"], "c": ["b"]}) == ["b", "c", "b"]
    assert _cycle({"a": ["b", "c"], "b": ["c"], "c": []}) is None


def _graph() -> dict[str, set[str]]:
    """Module to the modules it imports when it is loaded; a package stands for its `__init__`."""
    known = {_module(source.path): source for source in sources()}
    graph: dict[str, set[str]] = {}
    for module, source in known.items():
        loaded = [name for name, _, lazy in imports(_without_type_checking(source.tree)) if not lazy]
        targets = (name if name in known else name.rpartition(".")[0] for name in loaded)
        graph[module] = {target for target in targets if target in known}
    return graph


def _module(path: str) -> str:
    return "strop." + path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _without_type_checking(tree: ast.Module) -> ast.Module:
    kept = [node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))]
    return ast.Module(kept, tree.type_ignores)


def _cycle(graph: dict[str, list[str]]) -> list[str] | None:
    """The modules of one cycle, first one repeated at the end; None if there is none."""
    done: set[str] = set()

    def visit(node: str, trail: list[str]) -> list[str] | None:
        if node in trail:
            return [*trail[trail.index(node) :], node]
        if node in done:
            return None
        found = next((cycle for target in graph.get(node, []) if (cycle := visit(target, [*trail, node]))), None)
        done.add(node)
        return found

    return next((cycle for node in graph if (cycle := visit(node, []))), None)


ISOLATED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(name + " is not part of the base install")
sys.meta_path.insert(0, Blocked())
import importlib
for name in {modules}:
    importlib.import_module(name)
"""


def test_the_base_install_imports_without_any_extra() -> None:
    """The light modules load in a process where torch and every other extra is missing."""
    blocked = ("torch", "vllm", "transformers", "triton", "gguf", "accelerate", "llguidance", "trl", "peft", "openai")
    modules = ("strop.strategies", "strop.strategies.testing", "strop.server.app", "strop.server.cli")
    code = ISOLATED.format(blocked=set(blocked), modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
