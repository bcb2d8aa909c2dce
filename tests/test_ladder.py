"""The ladder: counting, climbing, picture, comparison, the lecture, breaking. Small models on a small text."""

import itertools
import json
import lzma
import math
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
import torch

from minigpt import RUNGS, GPTConfig, load, load_corpus
from minigpt.ladder import climb as climbing
from minigpt.ladder.breaks import BREAKS, FIGURES, INTACT, read, trained
from minigpt.ladder.climb import Attempt, Result, averaged, chosen, find, read_report
from minigpt.ladder.compare import flow, side_by_side
from minigpt.ladder.counting import Baseline, baselines, bigram_loss, kneser_ney_loss, unigram_loss, xz_loss
from minigpt.ladder.lecture import SHAPE as LECTURE_SHAPE, STEPS as LECTURE, LectureHead, reproduce
from minigpt.ladder.picture import picture
from minigpt.ladder.program import diagnosis, sparkline

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("ladder") / "my.txt"
    path.write_text(text)
    return load_corpus([path])


# ---- counting ----------------------------------------------------------------------------------------------------------


def kneser_ney_by_hand(train: list[int], context: tuple[int, ...], word: int, vocab_size: int, order: int) -> float:
    """The same probability by its definition, with lists and loops."""
    if order == 0:
        return 1 / vocab_size
    context = context[len(context) - order + 1 :]
    grams = {n: [tuple(train[i : i + n]) for i in range(len(train) - n + 1)] for n in range(1, len(train))}

    def count(gram: tuple[int, ...]) -> int:
        if order == KN_ORDER:
            return grams[order].count(gram)
        return len({longer[0] for longer in grams[order + 1] if longer[1:] == gram})

    counts = [count(gram) for gram in set(grams[order])]
    once, twice = counts.count(1), counts.count(2)
    discount = once / (once + 2 * twice) if once and twice else 0.5
    after = {w: count((*context, w)) for w in range(vocab_size)}
    total = sum(after.values())
    lower = kneser_ney_by_hand(train, context[1:], word, vocab_size, order - 1)
    if total == 0:
        return lower
    different = sum(c > 0 for c in after.values())
    return max(after[word] - discount, 0) / total + discount * different / total * lower


KN_ORDER = 3


def test_the_n_gram_is_kneser_neys_by_its_definition_and_its_probabilities_sum_to_1():
    rng = np.random.default_rng(0)
    train, val = (rng.choice(4, n, p=[0.5, 0.3, 0.15, 0.05]) for n in (60, 25))
    probs = []
    for i in range(1, len(val)):
        context = tuple(int(v) for v in val[max(0, i - KN_ORDER + 1) : i])
        order = min(KN_ORDER, len(context) + 1)
        if order == KN_ORDER:
            shares = [kneser_ney_by_hand(train.tolist(), context, w, 5, KN_ORDER) for w in range(5)]
            assert sum(shares) == pytest.approx(1)
            probs.append(shares[val[i]])
    # The first predicted token has a shorter context than the rest; it is left out on both sides.
    whole = kneser_ney_loss(train, val, 5, KN_ORDER) * (len(val) - 1)
    first = kneser_ney_loss(train, val[:2], 5, KN_ORDER)
    assert whole - first == pytest.approx(-np.log(probs).sum())


def test_longer_contexts_help_and_unseen_ones_do_no_harm(corpus):
    train, val = corpus.train.astype(int), corpus.val.astype(int)
    losses = [kneser_ney_loss(train, val, corpus.tokenizer.vocab_size, order) for order in (1, 2, 3, 5)]
    assert losses == sorted(losses, reverse=True)
    strangers = np.arange(20) % 7 + 30  # tokens that the training text never has
    assert math.isfinite(kneser_ney_loss(train, strangers, 40, 4))


def test_unigram_and_bigram_counts_are_the_smoothed_frequencies():
    train, val = np.array([0, 1, 0, 0, 1, 1, 0]), np.array([0, 0, 1])
    assert unigram_loss(train, val, 3) == pytest.approx(-(math.log(5 / 10) + math.log(4 / 10)) / 2)
    # After a 0: 0 once, 1 twice; one more for each of three tokens.
    assert bigram_loss(train, val, 3) == pytest.approx(-(math.log(2 / 6) + math.log(3 / 6)) / 2)


def test_xz_counts_the_bits_that_the_second_text_adds():
    before, after = b"to be or not to be " * 50, b"that is the question " * 3
    added = len(lzma.compress(before + after, preset=9 | lzma.PRESET_EXTREME))
    added -= len(lzma.compress(before, preset=9 | lzma.PRESET_EXTREME))
    assert xz_loss(before, after, 63) == pytest.approx(8 * added * math.log(2) / 63)
    assert xz_loss(before, before, 950) < 0.5


def test_the_baselines_are_in_order_and_uniform_is_ln_v(corpus):
    floor = baselines(corpus)
    assert [b.name for b in floor] == ["uniform", "unigram", "bigram counts", "6-gram counts", "xz"]
    assert floor[0].loss == pytest.approx(math.log(corpus.tokenizer.vocab_size))
    assert floor[0].loss > floor[1].loss > floor[2].loss > floor[3].loss


def test_the_baselines_of_tiny_shakespeare(shakespeare):
    """The figures of docs/results.md."""
    floor = {b.name: b.loss for b in baselines(load_corpus([shakespeare]))}
    assert floor["unigram"] == pytest.approx(3.3473, abs=1e-3)
    assert floor["bigram counts"] == pytest.approx(2.4819, abs=1e-3)
    assert floor["6-gram counts"] == pytest.approx(1.5581, abs=1e-3)
    assert floor["xz"] == pytest.approx(1.75, abs=0.02)


# ---- climbing ----------------------------------------------------------------------------------------------------------


def test_a_climb_shows_every_rung_and_keeps_runs_picture_and_figures(run_cli, text_file, tmp_path):
    result = run_cli("ladder", "my.txt", "--budget", 3, "--device", "cpu")
    assert result.code == 0, result.err
    for rung in RUNGS.values():
        row = next(line for line in result.out.splitlines() if re.match(rf" ?{rung.number}  {rung.name} ", line))
        assert rung.idea in row
        model, _ = load(tmp_path / f"runs/ladder/{rung.number:02}-{rung.name}")
        assert f"{sum(p.numel() for p in model.parameters()):,}" in row
    for name in ("uniform", "unigram", "bigram counts", "6-gram counts", "xz"):
        assert re.search(rf"^ 0  {name} ", result.out, re.M)
    figures = json.loads((tmp_path / "runs/ladder/ladder.json").read_text())
    assert [r["name"] for r in figures["rungs"]] == list(RUNGS)
    assert figures["recipe"]["steps"] == 3
    for below, rung in itertools.pairwise(figures["rungs"]):
        assert rung["gain"] == pytest.approx(below["val_loss"] - rung["val_loss"])
        assert len(rung["attempts"][0]["sample"]) == 200
        assert len(rung["attempts"][0]["curve"]) == 3
    assert ET.parse(tmp_path / "runs/ladder/ladder.svg").getroot().tag.endswith("svg")
    for line in result.out.splitlines():
        assert len(line) < 130
    again = run_cli("ladder", "my.txt", "--budget", 1, "--rung", "bigram")
    assert "Runs go to runs/ladder-2/" in again.err


def test_several_seeds_give_mean_and_deviation(run_cli, text_file, tmp_path):
    result = run_cli("ladder", "my.txt", "--budget", 4, "--from", "embedding", "--to", "3", "--seeds", 3, "--out", "here")
    assert result.code == 0, result.err
    rungs = read_report(tmp_path / "here/ladder.json")
    assert list(rungs) == ["embedding", "positions"]
    losses = [a.val_loss for a in rungs["positions"].attempts]
    assert len(set(losses)) == 3
    assert rungs["positions"].val_loss == pytest.approx(np.mean(losses))
    assert rungs["positions"].deviation == pytest.approx(np.std(losses, ddof=1))
    assert rungs["embedding"].gain is None
    assert f"{np.mean(losses):.4f}" in result.out
    assert f"± {np.std(losses, ddof=1):.4f} over 3 seeds" in result.out
    assert sorted(p.name for p in (tmp_path / "here").iterdir() if p.is_dir())[-1] == "03-positions-seed-3"


def test_the_same_climb_gives_the_same_losses(run_cli, text_file, tmp_path):
    for out in ("a", "b"):
        assert run_cli("ladder", "my.txt", "--budget", 5, "--rung", "residual", "--out", out).code == 0
    a, b = (read_report(tmp_path / out / "ladder.json")["residual"] for out in ("a", "b"))
    assert (a.val_loss, a.train_loss, a.sample) == (b.val_loss, b.train_loss, b.sample)


def test_climbing_learns(run_cli, text_file, tmp_path):
    """Residual connections gain on blocks without them, and looking back gains on not looking back."""
    args = ("ladder", "my.txt", "--budget", 150, "--from", "positions", "--to", "residual", "--out", "up")
    assert run_cli(*args).code == 0
    rungs = read_report(tmp_path / "up/ladder.json")
    assert rungs["residual"].val_loss < rungs["positions"].val_loss - 0.2
    assert rungs["residual"].val_loss < rungs["blocks"].val_loss - 0.5
    assert rungs["residual"].attempts[0].start_loss > rungs["residual"].val_loss + 1


@pytest.mark.parametrize(
    ("rung", "first", "last", "names"),
    [
        (None, None, None, list(RUNGS)),
        ("5", None, None, ["heads"]),
        ("heads", None, None, ["heads"]),
        (None, "gpt", None, ["gpt", "rotary", "rmsnorm", "swiglu", "modern", "muon"]),
        (None, None, "2", ["bigram", "embedding"]),
        (None, "4", "head", ["head"]),
    ],
)
def test_rungs_are_chosen_by_name_or_number(rung, first, last, names):
    assert [r.name for r in chosen(rung, first, last)] == names


def test_curves_are_averaged_down():
    assert averaged([1, 3, 5, 7], 2) == [2, 6]
    assert averaged([1, 2], 5) == [1, 2]
    assert averaged([], 5) == []
    assert len(averaged(list(range(997)), 60)) == 60


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise on Windows")
def test_a_signal_ends_the_climb_and_keeps_what_stands(text_file, tmp_path):
    command = [sys.executable, str(ROOT / "ladder.py"), "my.txt", "--budget", "100000", "--from", "2"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "runs/ladder/02-embedding/metrics.jsonl").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"Stopped after 0 of {len(RUNGS) - 1} rungs" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (["--rung", "ghost"], 2, "there is no rung 'ghost'; there is 1 bigram, 2 embedding"),
        (["--rung", "99"], 2, "there is no rung '99'"),
        (["--from", "8", "--to", "3"], 2, "goes down; climb the other way"),
        (["--rung", "2", "--to", "3"], 2, "not both"),
        (["--budget", "0"], 2, "budget is 0; it must be a whole number from 1"),
        (["--seeds", "-1"], 2, "seeds is -1"),
        (["--seeds", "x"], 2, "not a valid integer"),
        (["--break", "nothing"], 2, "there is no part 'nothing' to break; there is mask, scale"),
        (["--diff", "5"], 2, "requires 2 arguments"),
        (["--diff", "5", "50"], 2, "there is no rung '50'"),
        (["--diff", "5", "6", "--lecture"], 2, "--diff and --lecture cannot go with each other"),
        (["--lecture", "--rung", "3"], 2, "--lecture cannot go with --rung"),
        (["--break", "mask", "--seeds", "3"], 2, "trains once"),
        (["--ruhng", "3"], 2, "Did you mean '--rung'"),
        (["gone.txt"], 1, "gone.txt"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_mistakes_are_told_in_plain_words(run_cli, text_file, tmp_path, args, code, says):
    result = run_cli("ladder", *([] if "gone.txt" in args else ["my.txt"]), *args)
    assert (result.code, result.out) == (code, "")
    assert says in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("args", [[], ["--lecture"], ["--break", "mask"]], ids=["climb", "lecture", "break"])
@pytest.mark.parametrize("size", [0, 1, 60])
def test_a_text_that_is_too_short_is_refused_with_numbers(run_cli, tmp_path, args, size):
    (tmp_path / "short.txt").write_text("to be or not to be, that is the question: whether 'tis nobler"[:size])
    result = run_cli("ladder", "short.txt", *args)
    assert result.code == 1
    assert "short.txt" in result.err
    assert "Traceback" not in result.err
    assert not (tmp_path / "runs").exists()


# ---- the picture -------------------------------------------------------------------------------------------------------


def fake(number: int, loss: float, gain: float | None = 0.1, deviation: float | None = None) -> Result:
    rung = list(RUNGS.values())[number - 1]
    attempt = Attempt(1, 4.0, loss, loss, 1.0, "text", "runs/x", [loss])
    return Result(number, rung.name, rung.idea, 10, {}, [attempt], loss, loss, deviation, loss, gain, 1.0)


def test_the_picture_names_every_rung_and_baseline_and_loss():
    results = [fake(n, 3.0 - n / 10, 0.1 if n % 2 else -0.1, 0.02) for n in range(1, 15)]
    svg = picture(results, [Baseline("unigram", "", 3.1), Baseline("uniform", "", 4.2)], "A & B <text>", 500)
    root = ET.fromstring(svg)
    words = [" ".join(element.itertext()) for element in root.iter() if element.tag.endswith("text")]
    for r in results:
        assert r.name in words
        assert f"{r.val_loss:.2f}" in words
    assert "unigram" in words
    assert any("beyond: uniform 4.20" in word for word in words)
    assert any("A & B <text>" in word for word in words)
    assert "prefers-color-scheme: dark" in svg
    heights = [float(y) for y in re.findall(r",([\d.]+)", re.search(r'<polyline points="([^"]+)"', svg)[1])]
    assert heights[0] < heights[-1], "a lower loss is lower on the page"


@pytest.mark.parametrize("n", [1, 2, 14])
def test_nothing_is_drawn_outside(n):
    svg = picture([fake(i, 2.5 - i / 20) for i in range(1, n + 1)], [Baseline("xz", "", 2.4)], "my.txt", 5)
    for name, high in (("x", 1280), ("x1", 1280), ("x2", 1280), ("y", 800), ("y1", 800), ("y2", 800)):
        assert all(0 <= float(v) <= high for v in re.findall(rf' {name}="(-?[\d.]+)"', svg)), name


# ---- comparing ---------------------------------------------------------------------------------------------------------


def test_what_flows_is_told_part_by_part_with_shapes():
    config = GPTConfig(vocab_size=20, block_size=8, n_layer=1, n_head=2, n_embd=16)
    assert flow(RUNGS["positions"].model(config), config)[-2:] == ["TokenAndPosition (1, 8, 16)", "Linear (1, 8, 20)"]
    lines = flow(RUNGS["heads"].model(config), config)
    assert "Heads (1, 8, 16)" in lines
    assert lines.count("  Head (1, 8, 8)") == 2


def test_columns_mark_what_changed():
    lines = side_by_side(["a", "b", "c"], ["a", "x", "c", "d"], 5)
    assert [line.split() for line in lines] == [["a", "a"], ["b", "~", "x"], ["c", "c"], [">", "d"]]


@pytest.mark.parametrize(("a", "b"), [("5", "6"), ("layernorm", "gpt"), ("gpt", "modern"), ("bigram", "embedding")])
def test_two_rungs_side_by_side(run_cli, text_file, a, b):
    result = run_cli("ladder", "my.txt", "--diff", a, b, "--budget", 2)
    assert result.code == 0, result.err
    first, second = find(a), find(b)
    assert first.idea in result.out
    assert second.idea in result.out
    counts = re.search(r"parameters  ([\d,]+) -> ([\d,]+) \(([+-][\d,]+)\)", result.out)
    shapes = [climbing.shape(rung, 39) for rung in (first, second)]
    expected = [sum(p.numel() for p in r.model(s).parameters()) for r, s in zip((first, second), shapes, strict=True)]
    assert [int(counts[i].replace(",", "")) for i in (1, 2)] == expected
    assert re.search(r"val loss    \d\.\d{4} -> \d\.\d{4}, \d\.\d{4} nats/token (better|worse)", result.out)
    assert "(1, 32, 39)" in result.out  # the logits


def test_a_comparison_takes_the_losses_of_the_climb(run_cli, text_file, tmp_path):
    assert run_cli("ladder", "my.txt", "--budget", 3, "--from", "2", "--to", "3").code == 0
    losses = [f"{r.val_loss:.4f}" for r in read_report(tmp_path / "runs/ladder/ladder.json").values()]
    result = run_cli("ladder", "my.txt", "--diff", "2", "3")
    assert "val loss    " + " -> ".join(losses) in result.out
    assert "training now" not in result.err
    assert "training now" in run_cli("ladder", "my.txt", "--diff", "2", "3", "--budget", 2).err
    (tmp_path / "other.txt").write_text("0123456789\n" * 300)
    result = run_cli("ladder", "other.txt", "--diff", "2", "3")
    assert "training now" in result.err
    assert losses[0] not in result.out


# ---- the lecture -------------------------------------------------------------------------------------------------------


def test_the_steps_of_the_lecture_have_its_sizes():
    """Parameters counted by hand from the lecture: 65 characters, 32 channels, 8 positions, heads without biases."""
    ends = 65 * 32 + 8 * 32 + 32 * 65 + 65
    attention, projection, thought = 3 * 32 * 32, 32 * 32 + 32, 32 * 32 + 32
    wide = 32 * 128 + 128 + 128 * 32 + 32
    expected = {
        "bigram": 65 * 65,
        "embeddings and positions": ends,
        "one head": ends + attention,
        "four heads": ends + attention,
        "+ feed-forward": ends + attention + thought,
        "three blocks, no residual": ends + 3 * (attention + thought),
        "+ residual": ends + 3 * (attention + projection + wide),
        "+ layer norm": ends + 3 * (attention + projection + wide + 2 * 64) + 64,
    }
    config = GPTConfig(vocab_size=65, **LECTURE_SHAPE)
    for step in LECTURE:
        for lecture_scale in (True, False):
            model = step.build(config, lecture_scale)
            assert sum(p.numel() for p in model.parameters()) == expected[step.name], step.name


def test_the_lectures_scale_divides_by_the_width_of_the_model():
    torch.manual_seed(0)
    x, head = torch.randn(1, 5, 32), LectureHead(32, 8, bias=False)
    scores = head.query(x) @ head.key(x).transpose(-2, -1) / 32**0.5
    weights = scores.masked_fill(~torch.ones(5, 5, dtype=torch.bool).tril(), -math.inf).softmax(-1)
    torch.testing.assert_close(head(x), weights @ head.value(x))


def test_where_the_head_is_as_wide_as_the_model_both_scales_are_one():
    assert {step.name for step in LECTURE if not step.two_scales} == {"bigram", "embeddings and positions", "one head"}


def test_the_lecture_is_shown_beside_its_own_losses(run_cli, text_file):
    result = run_cli("ladder", "my.txt", "--lecture", "--budget", 2, "--seeds", 2)
    assert result.code == 0, result.err
    for step in LECTURE:
        rows = [line for line in result.out.splitlines() if line.startswith(step.name)]
        assert len(rows) == len(step.published)
        assert all(f"{loss:.4f}" in row for loss, row in zip(step.published.values(), rows, strict=True))
        assert all("±" in row for row in rows)


def test_the_bigram_of_the_lecture_is_reproduced(shakespeare):
    (step,) = [step for step in LECTURE if step.name == "bigram"]
    losses = {m.step: m.val_loss for m in reproduce(step, load_corpus([shakespeare]), seed=1) if m.val_loss is not None}
    assert losses[2700] == pytest.approx(step.published[2700], abs=step.tolerance)


# ---- breaking ----------------------------------------------------------------------------------------------------------

SIZES = dict(block_size=16, n_layer=3, n_head=2, n_embd=48)


@pytest.fixture(scope="module")
def intact(corpus):
    """The intact GPT after so many steps, made once for each number."""
    made: dict[int, tuple] = {}

    def after(steps: int):
        if steps not in made:
            for known in trained(INTACT, corpus, steps, shape=SIZES):
                made[steps] = known
            read(*made[steps], made[steps][1], corpus)
        return made[steps]

    return after


@pytest.mark.parametrize("name", list(BREAKS))
def test_the_symptom_of_every_break_appears_and_the_intact_model_has_none(name, corpus, intact):
    steps = 250 if name == "mask" else 100
    healthy, reader = intact(steps)
    brk = BREAKS[name]
    for known in trained(brk, corpus, steps, shape=SIZES):
        broken, model = known
    read(broken, model, reader, corpus)
    assert brk.symptom(healthy, broken), {f: (getattr(healthy, f), getattr(broken, f)) for f in brk.figures}
    assert not brk.symptom(healthy, healthy), "what is well is not called ill"
    told = diagnosis(brk, healthy, broken)
    for figure in brk.figures:
        assert FIGURES[figure] in told
    assert brk.recognise in " ".join(told.split())


def test_a_break_is_shown_beside_the_intact_model(run_cli, text_file):
    result = run_cli("ladder", "my.txt", "--break", "shift", "--budget", 30)
    assert result.code == 0, result.err
    assert "shift: targets that are not shifted" in result.out
    assert re.search(r"train loss at the end +\d\.\d+ +\d\.\d+", result.out)
    assert result.out.count("train loss, ") == 2
    assert result.out.count("writes, ") == 2


def test_a_symptom_that_does_not_show_is_not_claimed(run_cli, text_file):
    result = run_cli("ladder", "my.txt", "--break", "mask", "--budget", 1)
    assert result.code == 0, result.err
    assert "At this budget the symptom does not show" in result.out


def test_a_training_that_ends_in_nan_is_told(corpus, intact):
    healthy, reader = intact(100)
    brk = BREAKS["lr"]
    wild = type(brk)(brk.name, brk.mistake, brk.figures, brk.symptom, brk.recognise,
                     model=lambda model: model.ln_f.weight.data.fill_(float("nan")))  # fmt: skip
    for known in trained(wild, corpus, 3, shape=SIZES):
        broken, model = known
    assert "weights are damaged" in broken.stopped
    read(broken, model, reader, corpus)
    assert "training ended early" in diagnosis(wild, healthy, broken)


def test_a_curve_in_one_line():
    assert sparkline([0, 1, 2, 4, math.nan, 9], 0, 4) == "▁▃▅█ █"
