"""What the README says is run."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import minigpt

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
SHELL = [line.split("  #")[0].strip() for kind, block in BLOCKS if kind == "sh" for line in block.splitlines()]
TOUR = [line for line in SHELL if line.startswith(("python ", "minigpt ", "git "))]
PYTHON = [block for kind, block in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, text) -> Path:
    """The repository as a stranger has it, with a text of their own."""
    folder = tmp_path_factory.mktemp("clone")
    tracked = []
    if shutil.which("git"):
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
        tracked = listed.stdout.split("\n")
    wanted = [name for name in tracked if name.endswith(".py") and not name.startswith(("tests", "benchmarks"))]
    for name in wanted or ["bigram.py", "gpt.py", "ladder.py"]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    for name in ("my.txt", "input.txt"):  # the default text of the programs: with a larger one they take two minutes more
        (folder / name).write_text(text)
    (folder / "my_gpt.py").write_text("from minigpt import GPT, GPTConfig\n\nmodel = GPT(GPTConfig(n_embd=16))\n")
    return folder


def shell(command: str, folder: Path) -> subprocess.CompletedProcess:
    """Run a command of the README in this environment, every training shortened to 4 steps or 3 seconds."""
    tools = Path(sys.executable).parent
    environment = {**os.environ, "MINIGPT_OFFLINE": "1", "PATH": f"{tools}:{os.environ['PATH']}"}
    environment |= {} if "--minutes" in command else {"MINIGPT_MAX_ITERS": "4"}
    command = re.sub(r"--max-iters (\d)\d*", r"--max-iters \1", command)  # 500 -> 5, 700 -> 7
    command = re.sub(r"--minutes \d+", "--minutes 0.05", command)
    # An empty standard input: a chat ends at once.
    return subprocess.run(
        command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, input="", check=False
    )


def test_every_command_of_the_tour_works_in_the_order_of_the_page(folder):
    assert len(TOUR) >= 9
    for command in TOUR:
        if command.startswith("git ") and not shutil.which("git"):
            continue
        done = shell(command, folder)
        assert done.returncode == (1 if command.startswith("git diff ") else 0), f"{command}\n{done.stderr}"
        assert "Traceback" not in done.stderr
        if "--prompt" in command:
            assert done.stdout.count("The ") >= 3
    for block in PYTHON:
        done = shell(f"python -c {shlex.quote(block)}", folder)
        assert done.returncode == 0, done.stderr


def test_make_run_trains_and_writes_and_names_the_next_commands(folder):
    """The recipe itself, with this environment in the place of the one that it would set up."""
    shutil.copy(ROOT / "Makefile", folder)
    done = shell(f"make -o .venv/.installed run BIN={shlex.quote(str(Path(sys.executable).parent))}", folder)
    assert done.returncode == 0, done.stderr
    assert "GPT, " in done.stdout
    assert "It is in runs/gpt" in done.stderr
    assert done.stderr.split("Try next:")[1].count("runs/gpt") == 3


def test_make_run_and_make_test_are_there_and_do_what_the_page_says():
    assert SHELL[:2] == ["make run", "make test"]
    for target, expected in (("run", "gpt.py"), ("test", "pytest"), ("check", "mypy")):
        planned = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        assert expected in planned
    assert (
        "train a small GPT" in subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    )


def test_the_commands_without_make_are_those_of_the_makefile():
    planned = subprocess.run(["make", "-n", "-B", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for command in ("-m venv .venv", "-c constraints.txt", "[dev]", ".venv/bin/python -m pytest"):
        assert command in planned
        assert any(command in line for line in SHELL)
    assert (ROOT / "constraints.txt").exists()


def test_the_file_table_and_the_tree_agree():
    named = re.findall(r"^\| `([^`]+)` \| ([^|]+) \|$", README, re.M)
    files = [name for name, _ in named if name.endswith(".py")]
    tree = [path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("*.py"), *ROOT.glob("minigpt/*.py")]]
    assert sorted(files) == sorted(tree)
    for name, _ in named:
        assert (ROOT / name).exists(), name
    order = [Path(name).stem for name in files if name.startswith("minigpt/") and "__" not in name]
    contents = [line.split()[0] for line in minigpt.__doc__.splitlines() if line.startswith("    ")]
    assert [*order, "commands/", "ladder/"] == contents


def test_every_link_in_the_documentation_leads_somewhere():
    for page in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")]:
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.S)
        for link in re.findall(r"\]\((?!https?://|#)([^)#]+)", prose):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_results_are_those_that_were_measured():
    """Every figure of the results table stands in the page that its command writes."""
    pages = {
        "losses.py": "docs/results.md",
        "race.py": "docs/results.md",
        "lowest.py": "docs/results.md",
        "gpu.py": "docs/results.md",
        "minutes.py": "docs/results.md",
        "ladder.py": "docs/results.md",
        "speed.py": "benchmarks/results.md",
        "memory.py": "benchmarks/memory.md",
        "generation.py": "benchmarks/generation.md",
    }
    section = README.split("## Results")[1].split("## Licence")[0]
    rows = [line.split("|")[1:-1] for line in section.splitlines() if line.startswith("| ") and "---" not in line][1:]
    assert len(rows) >= 5
    for _, figure, _, command in rows:
        page = next(page for script, page in pages.items() if script in command)
        numbers = re.findall(r"\d+(?:,\d{3})+|\d+\.\d+", figure)
        assert numbers, figure
        for number in numbers:
            assert number in (ROOT / page).read_text(encoding="utf-8"), (number, page)
