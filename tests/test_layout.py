"""The rules of the house, as tests."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import pytest

import minigpt
import minigpt.commands
import minigpt.ladder

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "minigpt"
LADDER = PACKAGE / "ladder"
COMMANDS = PACKAGE / "commands"
FILES = sorted(PACKAGE.rglob("*.py"))
PROGRAMS = [ROOT / name for name in ("bigram.py", "ladder.py", "gpt.py")]


def order_of(package) -> list[str]:
    """The names that the docstring of a package lists."""
    return [line.split()[0] for line in package.__doc__.splitlines() if line.startswith("    ")]


ORDER = [name for name in order_of(minigpt) if not name.endswith("/")]
LADDER_ORDER = order_of(minigpt.ladder)
COMMANDS_ORDER = order_of(minigpt.commands)


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
    assert {path.stem for path in COMMANDS.glob("*.py")} - {"__init__"} == set(COMMANDS_ORDER)
    assert len(ORDER) == len(set(ORDER))


@pytest.mark.parametrize("name", ORDER)
def test_a_file_imports_only_files_above_it(name):
    below = set(imported(PACKAGE / f"{name}.py")) - set(ORDER[: ORDER.index(name)])
    if name == "cli":
        below = {part for part in below if not part.startswith("commands.")}
    assert not below, f"{name}.py may not import {below}"


@pytest.mark.parametrize("name", COMMANDS_ORDER)
def test_a_command_may_open_any_room_but_that_of_another_command(name):
    path = COMMANDS / f"{name}.py"
    assert not set(imported(path))
    assert not {part for part in imported(path, level=2) if not part.startswith("ladder")} - set(ORDER) | (
        {"cli"} & set(imported(path, level=2))
    )


@pytest.mark.parametrize("name", LADDER_ORDER)
def test_the_ladder_imports_the_package_and_only_files_above_it(name):
    path = LADDER / f"{name}.py"
    assert not set(imported(path)) - set(LADDER_ORDER[: LADDER_ORDER.index(name)])
    assert not set(imported(path, level=2)) - set(ORDER) | ({"cli", "commands"} & set(imported(path, level=2)))


@pytest.mark.parametrize(
    ("path", "following"),
    [(PACKAGE / f"{name}.py", after) for name, after in itertools.pairwise(ORDER)]
    + [(LADDER / f"{name}.py", after) for name, after in itertools.pairwise(LADDER_ORDER)]
    + [(COMMANDS / f"{name}.py", after) for name, after in itertools.pairwise(COMMANDS_ORDER)],
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


# What makes code of data, or data that can become code.
EXECUTES = """
    pickle _pickle cPickle pickletools copyreg marshal shelve dill cloudpickle joblib yaml runpy jinja2
    torch.load torch.save torch.hub torch.jit.load torch.package torch.serialization torch.multiprocessing
    numpy.load numpy.save numpy.savez pandas.read_pickle allow_pickle= exec eval compile __import__ os.system os.popen
""".split()
ON_PURPOSE = {
    ("minigpt/learner.py", "compile"),  # the file that a learner asks it to check
    ("reliability/hostile_files.py", "pickle"),  # makes one, to see that nobody reads it
    ("reliability/hostile_files.py", "os.system"),  # is what that would call
    ("reliability/resuming.py", "compile"),  # a setting of this name
}


def used(tree: ast.Module) -> set[str]:
    """Everything that a file names, by its full name whatever it was imported as: torch.load.

    from numpy import load as read; read(path, allow_pickle=True) -> {"numpy.load", "path", "allow_pickle=", ...}
    """
    nodes = list(ast.walk(tree))
    known = {}
    for node in nodes:
        if isinstance(node, ast.Import | ast.ImportFrom):
            origin = "." * node.level + (node.module or "") + "." if isinstance(node, ast.ImportFrom) else ""
            known |= {alias.asname or alias.name: origin + alias.name for alias in node.names}
    names = set(known.values()) | {f"{node.arg}=" for node in nodes if isinstance(node, ast.keyword)}
    for node in nodes:
        if isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            first, *rest = ast.unparse(node).split(".")
            names.add(".".join([known.get(first, first), *rest]))
    return names


def executes(tree: ast.Module) -> set[str]:
    names = used(tree)
    return {banned for banned in EXECUTES for name in names if name == banned or name.startswith(f"{banned}.")}


@pytest.mark.parametrize(
    "path",
    [*FILES, *PROGRAMS, *sorted((ROOT / "reliability").glob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_nothing_reads_or_writes_pickles(path):
    name = path.relative_to(ROOT).as_posix()
    assert {what for what in executes(tree_of(path)) if (name, what) not in ON_PURPOSE} == set()


@pytest.mark.parametrize(
    "code",
    [
        "from torch import load",
        "from torch import load as read",
        "import torch as t; t.load(path)",
        "import torch; torch.hub.load(path)",
        "from torch.serialization import load",
        "import numpy as np; np.load(path)",
        "read(path, allow_pickle=True)",
        "from pickle import loads",
        "import yaml; yaml.load(text)",
        "eval(text)",
        "import os as system; system.system(text)",
    ],
)
def test_no_way_around_that_is_overlooked(code):
    assert executes(ast.parse(code))


ATTACKS = {  # what is noticed -> code that does it
    "pickle.find_class": "import pickle; pickle.loads(b'cos\\nsystem\\n(Vtouch executed\\ntR.')",
    "pickle.find_class, deep in a library": "import torch; torch.load('weights.pt', weights_only=False)",
    "compile": "exec('open(\\'executed\\', \\'w\\')')",
    "exec": "exec((lambda: open('executed', 'w')).__code__)",
    "os.system": "import os; os.system('touch executed')",
    "subprocess.Popen": "import subprocess; subprocess.run(['touch', 'executed'])",
    "socket.connect": "import socket; socket.create_connection(('127.0.0.1', 9), 1)",
}


def test_the_hook_over_all_tests_notices_what_the_package_executes(tmp_path):
    """The same code as of a file of the package, as of one that may do a part of it, and as of one that is not watched."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import collections, os, torch
from reliability import audit
os.chdir({str(tmp_path)!r})
torch.save(collections.OrderedDict(a=torch.ones(1)), "weights.pt")
audit.install()
for event, attack in {ATTACKS!r}.items():
    for file in ("minigpt/files.py", "minigpt/corpus.py", "tests/any.py"):
        audit.caught.clear()
        try:
            exec(compile(attack, os.path.join({str(ROOT)!r}, file), "exec"), {{}})
        except (audit.Executed, OSError):
            pass
        done = os.path.exists("executed") and not os.remove("executed")
        print(file, event, "|", *[line.split(" by ")[0] for line in audit.caught], done)
"""
    told = python(code).splitlines()
    for event in ATTACKS:
        what, seen = event.split(",")[0], {line.split(" | ")[0]: line.split(" | ")[1] for line in told}
        acts = "pickle.find_class, " not in event and what != "socket.connect"
        assert seen[f"minigpt/files.py {event}"] == f"{what} False"
        assert seen[f"minigpt/corpus.py {event}"] == ("False" if what == "socket.connect" else f"{what} False")
        assert seen[f"tests/any.py {event}"] == str(acts)


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
        if path.parent == COMMANDS:
            continue
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
