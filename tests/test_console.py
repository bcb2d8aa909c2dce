import io
import re
import signal
import sys

import pytest
from rich.console import Console

from minigpt import GPT, BigramLanguageModel, GPTConfig, Metrics, Progress, TrainConfig
from minigpt.console import StopSignals, _clock, architecture, excerpt

CONFIG = TrainConfig(max_iters=100, eval_interval=50)
STEP = Metrics(49, 100, 3.0, 2.5, 1e-3, 1.0, 12_345.0)
EVALUATION = Metrics(50, 100, 4.0, 2.4, 1e-3, 1.0, 12_345.0, train_loss=2.6, val_loss=2.0, val_error=0.01, is_best=True)


@pytest.fixture
def shown(monkeypatch, capsys):
    """What Progress writes to a terminal or to a file."""

    def show(terminal: bool, *metrics: Metrics, sample: str = "", **environment: str) -> str:
        for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        out = io.StringIO()
        width = int(environment.get("COLUMNS", 100))
        progress = Progress(CONFIG)
        progress.console = Console(file=out, force_terminal=terminal, width=width, highlight=False)
        with progress:
            for each in metrics:
                progress.update(each, sample)
        return out.getvalue() + capsys.readouterr().err

    return show


def test_a_file_gets_plain_lines_and_only_for_evaluations(shown):
    text = shown(False, STEP, EVALUATION, sample="\nRO\nMEO: ")
    lines = text.splitlines()
    assert len(lines) == 2
    assert re.match(r"step +50/100  train 2\.6000  val 2\.0000 \(2\.885 bits/char\)  12,345 tok/s  ETA \d+:\d\d", lines[0])
    assert lines[1].strip() in ("RO⏎MEO:", "RO/MEO:")
    assert "\x1b" not in text


def test_a_terminal_gets_a_live_bar_with_step_loss_speed_and_the_time_left(shown):
    text = shown(True, EVALUATION)
    assert "\x1b" in text
    for part in ("50/100", "loss 2.400", "12,345 tok/s", "ETA", "val 2.0000"):
        assert part in text


def test_a_narrow_terminal_keeps_the_step_the_time_left_and_the_loss(shown):
    text = shown(True, STEP, COLUMNS="40")
    assert "49/100" in text
    assert "ETA" in text
    assert "loss 2.500" in text


def test_no_color_is_honoured(shown):
    coloured = re.compile(r"\x1b\[[0-9;]*(3|9)[0-7]m|\x1b\[38;")
    assert coloured.search(shown(True, STEP))
    assert not coloured.search(shown(True, STEP, NO_COLOR="1"))


def test_what_a_model_writes_cannot_draw_on_the_terminal(shown):
    text = shown(False, EVALUATION, sample="[red]a\x1b[2Jb\x07c")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]a" in text


def test_the_architecture_names_every_component_with_shape_and_parameters():
    model = GPT(GPTConfig(vocab_size=65, block_size=64, n_layer=3, n_head=4, n_embd=128))
    text = architecture(model)
    total = sum(p.numel() for p in model.parameters())
    assert text.splitlines()[0] == f"GPT, {total:,} parameters"
    for part in ("(65, 128)", "(64, 128)", "3 x Block", "MultiHeadAttention, 4 heads", "(384, 128)", "FeedForward", "tied"):
        assert part in text
    # The rows of the first level add up: the embeddings, all blocks, the last norm; the output table is tied.
    rows = [line for line in text.splitlines()[1:] if re.match(r"  \S", line)]
    assert sum(int(count.replace(",", "")) for count in (row.split()[-1] for row in rows) if count != "tied") == total


def test_the_architecture_of_a_bigram_is_one_table():
    assert "4,225" in architecture(BigramLanguageModel(65))


@pytest.mark.parametrize(("seconds", "clock"), [(0, "0:00"), (75, "1:15"), (3599.6, "1:00:00"), (90061, "25:01:01")])
def test_times_are_written_as_clocks(seconds, clock):
    assert _clock(seconds) == clock


def test_an_excerpt_is_one_line_of_limited_width():
    assert len(excerpt("a\n" * 1000, 90, sys.stdout)) == 90
    assert "\n" not in excerpt("a\nb", 90, sys.stdout)


def test_a_compiler_that_ended_by_the_same_ctrl_c_is_no_failure():
    class InductorError(RuntimeError):
        __module__ = "torch._inductor.exc"

    with StopSignals() as stop:
        signal.raise_signal(signal.SIGINT)
        raise InductorError
    assert stop.requested == signal.SIGINT
    with pytest.raises(InductorError), StopSignals():
        raise InductorError
    with pytest.raises(ZeroDivisionError), StopSignals():
        _ = signal.raise_signal(signal.SIGINT) or 1 / 0
