"""The rules of the house, as tests."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import minigpt
import minigpt.ladder

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minigpt"
LADDER = PACKAGE / "ladder"
FILES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = [ROOT / name for name in ("bigram.py", "ladder.py", "gpt.py")]


def order_of(package) -> list[str]:
    """The names that the docstring of a package lists."""
    return [line.split()[0] for line in package.__doc__.splitlines() if line.startswith("    ")]


ORDER = [name for name in order_of(minigpt) if not name.endswith("/")]
LADDER_ORDER = order_of(minigpt.ladder)


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(path: Path, level: int = 1):
    """The files of the package that a file imports, wherever in it; an absolute import of the package as "minigpt"."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.ImportFrom) and node.level == level:
            yield from [node.module] if node.module else [alias.name for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.Import | ast.ImportFrom) and "minigpt" in ast.unparse(node):
            yield "minigpt"


def test_every_file_is_in_the_reading_order():
    assert {path.stem for path in PACKAGE.glob("*.py")} - {"__init__", "__main__"} == set(ORDER)
    assert {path.stem for path in LADDER.glob("*.py")} - {"__init__"} == set(LADDER_ORDER)
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_files_above_it(name):
    below = set(imported(PACKAGE / f"{name}.py")) - set(ORDER[: ORDER.index(name)])
    if name == "cli":  # the roof: a command may open any room
        below = {part for part in below if not part.startswith("ladder")}
    assert not below, f"{name}.py may not import {below}"


@pytest.mark.parametrize("name", LADDER_ORDER)
def test_the_ladder_imports_the_package_and_only_files_above_it(name):
    path = LADDER / f"{name}.py"
    assert not set(imported(path)) - set(LADDER_ORDER[: LADDER_ORDER.index(name)])
    assert not set(imported(path, level=2)) - set(ORDER) | ({"cli", "program"} & set(imported(path, level=2)))


@pytest.mark.parametrize(
    ("path", "following"),
    [(PACKAGE / f"{name}.py", after) for name, after in itertools.pairwise(ORDER)]
    + [(LADDER / f"{name}.py", after) for name, after in itertools.pairwise(LADDER_ORDER)],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_file_begins_with_its_idea_and_ends_its_docstring_with_the_next_file(path, following):
    docstring = ast.get_docstring(tree_of(path))
    assert docstring.splitlines()[0].endswith(".")
    assert docstring.endswith(f"Next: {following}.py")


def test_the_root_programs_are_short_and_nothing_imports_them():
    for path in PROGRAMS:
        assert len(path.read_text().splitlines()) <= 90
        assert '__name__ == "__main__"' in path.read_text()
    for path in [*FILES, *(ROOT / "benchmarks").glob("*.py")]:
        names = {alias.name for node in ast.walk(tree_of(path)) if isinstance(node, ast.Import) for alias in node.names}
        assert not names & {"bigram", "gpt", "ladder"}, path


@pytest.mark.parametrize("path", [*FILES, *PROGRAMS], ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_reads_or_writes_pickles(path):
    names = {ast.unparse(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute | ast.Name)}
    imports = {
        alias.name
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    assert not names & {"torch.load", "torch.save", "np.load", "numpy.load", "pickle", "exec", "eval", "__import__"}
    assert not imports & {"pickle", "marshal", "shelve", "dill", "joblib"}


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_importing_has_no_effect():
    """No output, no seed, no environment read, no handler, nothing heavy."""
    code = """
import os, random, signal, sys, warnings
class Watched(dict):
    def get(self, key, default=None):
        if key in ("LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"): return default  # click asks for the language
        raise AssertionError(f"read {key}")
    __getitem__ = __contains__ = get
import torch, numpy, rich.progress, rich.console, safetensors.torch, platformdirs, click, tomllib, urllib.request
before = signal.getsignal(signal.SIGINT), warnings.showwarning, random.getstate()
state = torch.get_rng_state(), numpy.random.get_state()[1].tolist(), torch.get_num_threads(), torch.get_default_dtype()
real, os.environ = os.environ, Watched()
import minigpt, bigram, gpt, ladder
for name in minigpt.__all__: getattr(minigpt, name)
import minigpt.cli, minigpt.ladder.program, minigpt.explain, minigpt.check
os.environ = real
assert before == (signal.getsignal(signal.SIGINT), warnings.showwarning, random.getstate())
assert torch.equal(state[0], torch.get_rng_state()) and state[1] == numpy.random.get_state()[1].tolist()
assert state[2:] == (torch.get_num_threads(), torch.get_default_dtype())
"""
    assert python(code) == ""


def test_the_package_and_its_help_need_no_torch():
    assert (
        python("import sys, minigpt, minigpt.cli, minigpt.files, minigpt.sampling; assert 'torch' not in sys.modules") == ""
    )


def test_only_the_command_line_parses_arguments_and_few_files_print():
    for path in FILES:
        names = {ast.unparse(node) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Attribute | ast.Name)}
        if path.name not in ("cli.py", "program.py") or path.parent == LADDER:
            assert not names & {"sys.argv", "argparse", "click"}, path
        if path.name not in ("cli.py", "console.py", "program.py", "table.py"):
            assert not names & {"print", "sys.stdout", "sys.stderr"}, path


def test_public_names_are_there_and_lazy():
    for name in minigpt.__all__:
        assert getattr(minigpt, name) is not None
    assert set(dir(minigpt)) == set(minigpt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = minigpt.nonsense
    lazy = "import minigpt, sys; minigpt.GPTConfig; assert 'torch' not in sys.modules; "
    assert python(lazy + "minigpt.GPT; assert 'torch' in sys.modules") == ""


def test_the_trainer_and_the_engine_never_name_an_architecture():
    for name in ("trainer", "engine", "sampling", "optim"):
        names = {node.id for node in ast.walk(tree_of(PACKAGE / f"{name}.py")) if isinstance(node, ast.Name)}
        assert not names & {"GPT", "BigramLanguageModel", "Block", "MultiHeadAttention"}
