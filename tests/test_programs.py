"""The seed's two programs, run as a person runs them."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import gpt
from minigpt import cores, program
from minigpt.config import RECIPES

ROOT = Path(__file__).parent.parent


def start(program: str, *flags: str, **options) -> subprocess.Popen:
    command = [sys.executable, str(ROOT / program), *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.fixture
def input_txt(tmp_path, text):
    (tmp_path / "input.txt").write_text(text)


GPT_PARTS = ["tok_emb: Embedding", "pos_emb: Embedding", "4 x Block", "MultiHeadAttention, 4 heads", "FeedForward"]


@pytest.mark.parametrize(("program", "components"), [("bigram.py", ["BigramLanguageModel"]), ("gpt.py", GPT_PARTS)])
def test_a_program_shows_its_model_then_its_losses_then_writes_500_characters(program, components, input_txt, tmp_path):
    process = start(program, "--max-iters", "6")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    architecture, text = re.split(r"\n\n(?=\S?)", out.lstrip("\n"), maxsplit=1)
    for component in components:
        assert component in architecture
    assert "parameters" in architecture
    assert len(text.removesuffix("\n")) >= 500
    assert re.search(r"step +0/6 +val \d\.\d+", err)
    assert re.search(r"step +6/6 +train \d\.\d+ +val \d\.\d+ \(\d\.\d+ bits/char\)", err)
    run = f"runs/{program.removesuffix('.py')}"
    assert err.count(f" {run}") >= 3
    assert (tmp_path / run / "model.safetensors").exists()


@pytest.mark.parametrize("program", ["bigram.py", "gpt.py"])
def test_a_text_without_a_line_end_is_fine(program, tmp_path):
    (tmp_path / "input.txt").write_text("to be or not to be, that is the question. " * 40)
    process = start(program, "--max-iters", "2")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "Try next" in err


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
def test_a_signal_before_the_first_step_leaves_a_run_that_goes_on(input_txt, tmp_path):
    process = start("gpt.py", "--max-iters", "50")
    until = time.monotonic() + 60
    while time.monotonic() < until and not list(tmp_path.glob("runs/gpt/*")):
        time.sleep(0.001)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "Stopped at step 0 and saved" in err
    resume = [sys.executable, "-m", "minigpt", "train", "--resume", "--max-iters", "2"]
    done = subprocess.run(resume, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_a_second_run_never_overwrites_the_first(input_txt, tmp_path):
    for _ in range(2):
        process = start("bigram.py", "--max-iters", "2")
        process.communicate(timeout=120)
        assert process.returncode == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["bigram", "bigram-2"]


def test_with_no_input_txt_a_program_says_which_text_it_took(tmp_path):
    _, err = start("bigram.py", "--max-iters", "1", env={**os.environ, "MINIGPT_HOME": str(tmp_path)}).communicate(
        timeout=120
    )
    assert "the manual that comes with Python, because tiny Shakespeare is not available" in err
    assert "minigpt train my.txt" in err


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_after_the_step_saves_and_says_how_to_go_on(number, code, input_txt, tmp_path):
    process = start("gpt.py", "--max-iters", "100000")
    metrics = tmp_path / "runs/gpt/metrics.jsonl"
    until = time.monotonic() + 60
    while time.monotonic() < until and (not metrics.exists() or metrics.read_text().count("\n") < 4):
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    step = int(re.search(r"Stopped at step (\d+) and saved", err)[1])
    assert "train --resume --out runs/gpt" in err
    resume = [sys.executable, "-m", "minigpt", "train", "--resume", "--out", "runs/gpt", "--max-iters", str(step + 2)]
    done = subprocess.run(resume, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert f"at step {step:,} of {step + 2:,}" in done.stderr


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
def test_a_second_signal_ends_at_once(tmp_path):
    code = """
import os, signal, time
from minigpt.console import StopSignals
with StopSignals() as stop:
    os.kill(os.getpid(), signal.SIGINT)
    assert stop.requested == signal.SIGINT
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
"""
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=25, check=False).returncode
        == 130
    )


def test_a_wrong_flag_is_answered_in_words():
    process = start("gpt.py", "--sise", "lecture")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "--size" in err
    assert "Traceback" not in err


def test_the_numbers_in_gpt_py_are_those_of_minigpt_train():
    for column, size in enumerate(gpt.SIZES):
        shown = {name: values[column] for name, values in gpt.HYPERPARAMETERS.items()}
        recipe = RECIPES[size]
        assert shown == {"min_lr": recipe["learning_rate"] / 10, **recipe}


@pytest.mark.parametrize("asked", ["3", "", "0", "many"])
def test_as_many_processors_are_used_as_there_are_or_as_was_said(monkeypatch, tmp_path, asked):
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "no container")
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert cores.cores() == (3 if asked == "3" else there)


@pytest.mark.parametrize(
    ("loadavg", "own", "busy"),
    [("0.1 0.2 0.3 1/79 1504", "R", 0), ("0.1 0.2 0.3 3/79 1504", "RS", 2), ("0.1 0.2 0.3 3/79 1504", "RRR", 0),
     ("0.1 0.2 0.3 1/79 1504", "RR", 0), ("?", "R", 0)],
)  # fmt: skip
def test_other_programs_that_compute_are_noticed(monkeypatch, loadavg, own, busy):
    """The fourth figure counts what runs now, the threads of this program among it."""
    monkeypatch.setattr(cores, "glob", lambda _: [f"/proc/self/task/{state}" for state in own])
    read = lambda path: loadavg if path.name == "loadavg" else f"1 (a) b) {path.parent.name} 0"  # noqa: E731
    monkeypatch.setattr(cores.Path, "read_text", read)
    assert cores.others_computing() == busy


@pytest.mark.parametrize(("quota", "share"), [("max 100000", None), ("150000 100000", 2), ("20000 100000", 1), ("?", None)])
def test_a_container_may_have_fewer_processors_than_the_machine(monkeypatch, tmp_path, quota, share):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cores, "QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: range(32), raising=False)
    assert cores.cores() == 32  # no such file
    (tmp_path / "cpu.max").write_text(quota + "\n")
    assert cores.cores() == (share or 32)


@pytest.mark.skipif(not 0 < program._age() < 10, reason="nobody tells here when a process began")
def test_a_program_began_with_its_process_and_not_with_this_module():
    code = "import time; time.sleep(0.5); from minigpt.program import running_s; print(running_s())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 0.5 <= float(told) < 60
