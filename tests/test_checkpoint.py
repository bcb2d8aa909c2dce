import json
import math
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from minigpt import (
    GPT,
    RUNGS,
    Batches,
    BigramLanguageModel,
    CharTokenizer,
    GPTConfig,
    ModernGPT,
    Run,
    SampleConfig,
    TrainConfig,
    evaluate,
    generate,
    load,
    load_corpus,
    train,
)
from minigpt.batches import sweep
from minigpt.checkpoint import free_folder
from minigpt.config import DataConfig
from minigpt.files import damage, read_json, read_lines, to_json
from minigpt.signals import interrupt
from minigpt.trainer import NonFiniteLoss, bits_per_char
from minigpt.writing import start_ids

FIXTURE = Path(__file__).parent / "fixtures" / "run-format-1"
SETTINGS = dict(batch_size=8, max_iters=12, eval_interval=4, warmup_iters=2, learning_rate=3e-3)


def make_run(folder, text_file, arch="gpt", tokenizer="char", **settings) -> tuple[Run, object]:
    corpus = load_corpus([text_file], DataConfig(tokenizer=tokenizer))
    config = TrainConfig(**{**SETTINGS, **settings})
    torch.manual_seed(0)
    vocab_size = corpus.tokenizer.vocab_size
    gpt = GPTConfig(vocab_size, block_size=32, n_layer=2, n_head=2, n_embd=32, dropout=0.1)
    makers = {"gpt": GPT, "modern": ModernGPT, "bigram": lambda _: BigramLanguageModel(vocab_size, 32)}
    model = makers[arch](gpt) if arch in makers else RUNGS[arch].model(gpt)
    return Run.create(folder, model, corpus, config), corpus


def follow(run, corpus, until=None) -> None:
    """Train to the end, or leave after a step as a signal would."""
    batches = Batches(corpus.train, run.config.batch_size, run.model.block_size, run.config.seed)
    for metrics in train(run.model, batches, corpus.val, run.config, run.state):
        run.record(metrics)
        if metrics.step == until:
            run.save()
            break


@pytest.fixture
def finished(tmp_path, text_file):
    run, corpus = make_run(tmp_path / "run", text_file)
    follow(run, corpus)
    return run, corpus


def checkpoint_bytes(folder: Path) -> dict[str, Any]:
    """All of the last checkpoint but the time that it took, and the hashes, which know that time."""
    step = max((folder / "checkpoints").iterdir())
    state = json.loads((step / "state.json").read_text())
    assert state.pop("seconds") > 0
    return {"state": state, **{file.name: file.read_bytes() for file in step.glob("*.safetensors")}}


def test_a_run_knows_its_evaluations(finished):
    seen = finished[0].evaluations()
    assert [metrics.step for metrics in seen] == [0, 4, 8, 12]
    assert all(metrics.val_loss for metrics in seen)


# ---- other programs open it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["gpt", "modern"])
@pytest.mark.parametrize("tokenizer", ["char", "byte"])
def test_transformers_opens_a_run_and_gives_the_same_logits_and_the_same_text(tmp_path, text_file, tokenizer, arch):
    from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2LMHeadModel, Qwen3ForCausalLM

    run, corpus = make_run(tmp_path / "run", text_file, arch, tokenizer=tokenizer, max_iters=40, eval_interval=40)
    follow(run, corpus)
    theirs = AutoModelForCausalLM.from_pretrained(run.folder)
    their_tokenizer = AutoTokenizer.from_pretrained(run.folder)
    assert type(theirs) is {"gpt": GPT2LMHeadModel, "modern": Qwen3ForCausalLM}[arch]
    ours, our_tokenizer = load(run.folder)
    theirs.eval()
    sliding = None
    if arch == "modern":
        layers = ["sliding_attention"] * ours.config.n_layer
        settings = dict(use_sliding_window=True, sliding_window=32, layer_types=layers)
        sliding = Qwen3ForCausalLM.from_pretrained(run.folder, **settings).eval()

    idx = torch.from_numpy(corpus.val[:64].astype("int64")).view(2, 32)
    with torch.no_grad():
        assert (ours(idx)[0] - theirs(idx).logits).abs().max().item() < 1e-5

    for prompt in ("The king", "a fox sees", "Dora", "\n", "box; a"):
        ids = start_ids(our_tokenizer, prompt)
        assert their_tokenizer(prompt)["input_ids"] == ids
        assert their_tokenizer.decode(ids) == prompt
        mine = list(generate(ours, ids, SampleConfig(max_new_tokens=200, temperature=0)))
        # transformers stops at the end of the context; beyond it a GPT-2 is given our window, a Qwen3 slides its own.
        tokens = torch.tensor([ids])
        for expected in mine:
            from minigpt.engine import window_start

            with torch.no_grad():
                window = tokens if sliding else tokens[:, window_start(tokens.shape[1], 32) :]
                assert (sliding or theirs)(window).logits[0, -1].argmax().item() == expected
            tokens = torch.cat([tokens, torch.tensor([[expected]])], dim=1)
        inside = 32 - len(ids)
        written = theirs.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                                  do_sample=False, temperature=None, max_new_tokens=inside)  # fmt: skip
        assert written[0, len(ids) :].tolist() == mine[:inside]


@pytest.mark.parametrize("arch", [GPT, ModernGPT])
def test_greedy_text_of_200_tokens_is_that_of_transformers_own_generate(tmp_path, text_file, arch):
    from transformers import AutoModelForCausalLM

    corpus = load_corpus([text_file])
    torch.manual_seed(0)
    model = arch(GPTConfig(corpus.tokenizer.vocab_size, block_size=256, n_layer=2, n_head=2, n_embd=32))
    run = Run.create(tmp_path / "run", model, corpus, TrainConfig(**{**SETTINGS, "max_iters": 30, "eval_interval": 30}))
    follow(run, corpus)
    ours, tokenizer = load(run.folder)
    theirs = AutoModelForCausalLM.from_pretrained(run.folder)
    for prompt in ("The king", "a fox sees", "Dora", "\n", "box; a"):
        ids = torch.tensor([start_ids(tokenizer, prompt)])
        written = theirs.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, temperature=None, max_new_tokens=200
        )
        mine = list(generate(ours, ids[0].tolist(), SampleConfig(max_new_tokens=200, temperature=0)))
        assert written[0, ids.shape[1] :].tolist() == mine


def test_a_run_is_opened_by_gpt_from_pretrained_too(finished):
    run, _ = finished
    model, idx = GPT.from_pretrained(run.folder), torch.arange(10)[None]
    assert torch.equal(model.eval()(idx)[0], load(run.folder)[0](idx)[0])


# ---- saving and loading --------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_leaves_the_last_good_checkpoint(tmp_path, text_file):
    run, corpus = make_run(tmp_path / "run", text_file)
    batches = Batches(corpus.train, 8, 32, run.config.seed)
    steps = train(run.model, batches, corpus.val, run.config, run.state)
    for _ in range(7):  # the untrained model and six steps
        run.record(next(steps))
    with torch.no_grad():
        run.model.ln_f.weight[0] = float("nan")
    with pytest.raises(NonFiniteLoss, match="at step 7"):
        next(steps)
    resumed, skipped = Run.resume(run.folder)
    assert (resumed.state.step, skipped) == (4, [])
    for model in (resumed.model, load(run.folder)[0]):
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_the_model_is_the_best_and_the_checkpoint_the_last(tmp_path, text_file):
    run, corpus = make_run(tmp_path / "run", text_file, max_iters=8, eval_interval=2)
    batches = Batches(corpus.train, 8, 32, run.config.seed)
    for metrics in train(run.model, batches, corpus.val, run.config, run.state):
        run.record(metrics)
        if metrics.step == 4:  # from here on it only gets worse
            for group in run.state.optimizer.param_groups:
                group["weight_decay"] = 1e4
    model, _ = load(run.folder)
    assert run.state.best_step == 4
    assert evaluate(model, corpus.val) == pytest.approx(run.state.best_val_loss, rel=1e-5)
    last, _ = Run.resume(run.folder)
    assert last.state.step == 8
    assert evaluate(last.model, corpus.val) > run.state.best_val_loss + 0.1


@pytest.mark.parametrize("arch", ["gpt", "modern", "bigram", "residual"])
@pytest.mark.parametrize("until", [1, 4, 7, 11])
def test_resuming_gives_the_same_bits_as_never_having_stopped(tmp_path, text_file, arch, until):
    whole, corpus = make_run(tmp_path / "whole", text_file, arch)
    follow(whole, corpus)
    stopped, corpus = make_run(tmp_path / "stopped", text_file, arch)
    follow(stopped, corpus, until)
    resumed, skipped = Run.resume(tmp_path / "stopped")
    assert not skipped
    assert resumed.state.step == until
    follow(resumed, corpus)
    assert checkpoint_bytes(whole.folder) == checkpoint_bytes(stopped.folder)
    assert (whole.folder / "model.safetensors").read_bytes() == (stopped.folder / "model.safetensors").read_bytes()
    kept = ("step", "loss", "val_loss", "train_loss", "grad_norm")
    logs = (read_lines(run.folder / "metrics.jsonl") for run in (whole, stopped))
    losses = [[{name: line.get(name) for name in kept} for line in log] for log in logs]
    assert losses[0] == losses[1]


# ---- another text, tokenizer or machine ----------------------------------------------------------------------------


@pytest.mark.parametrize("arch", ["gpt", "modern"])
@pytest.mark.parametrize("nth", [0, 1, 2, 3])
@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_an_evaluation_that_is_interrupted_is_made_up_for_exactly(tmp_path, text_file, monkeypatch, arch, nth, again):
    whole, corpus = make_run(tmp_path / "whole", text_file, arch)
    follow(whole, corpus)
    run, _ = make_run(tmp_path / "run", text_file, arch)

    for left in (nth, 0)[: 1 + again]:
        calls = iter([sweep] * left + [lambda *_: interrupt()])  # as the handler of a signal does
        monkeypatch.setattr("minigpt.trainer.sweep", lambda *args, calls=calls: next(calls)(*args))
        with pytest.raises(KeyboardInterrupt):
            follow(run, corpus)
        monkeypatch.setattr("minigpt.trainer.sweep", sweep)
        run.save()
        assert run.state.step == 4 * nth
        run, notes = Run.resume(run.folder)
        assert notes == []
    follow(run, corpus)
    assert checkpoint_bytes(run.folder) == checkpoint_bytes(whole.folder)
    assert not damage(run.folder / "checkpoints/step-00000012")
    for name in ("model.safetensors", "samples.jsonl"):
        assert (run.folder / name).read_bytes() == (whole.folder / name).read_bytes()
    for ours, theirs in zip(*(read_lines(r.folder / "metrics.jsonl") for r in (run, whole)), strict=True):
        times = ("seconds", "tokens_per_s", "peak_share", "time")
        assert {k: v for k, v in ours.items() if k not in times} == {k: v for k, v in theirs.items() if k not in times}
    assert Run.resume(run.folder)[0].state.is_over(run.config)


def other_corpus(run, text, path=Path("other.txt")):
    """Another text of the same characters, its lines in the opposite order."""
    path.write_text("\n".join(reversed(text.splitlines())))
    return load_corpus([path], DataConfig(), run.tokenizer)


def test_another_text_is_refused_with_both_sides_and_nothing_written(finished, text):
    run, corpus = finished
    before = {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match="another text") as refusal:
        Run.resume(run.folder, corpus=other_corpus(run, text), max_iters=20)
    for side in ("my.txt", "other.txt", corpus.sha256[:12], "20,026 characters", "20,025 characters", "--other-text"):
        assert side in str(refusal.value)
    assert before == {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def test_a_run_can_be_told_to_go_on_with_another_text_and_says_so_for_ever(finished, text):
    run, corpus = finished
    before, other = run.state.best_val_loss, other_corpus(run, text)
    resumed, (sentence,) = Run.resume(run.folder, corpus=other, other_text=True, max_iters=20)
    assert other.sha256[:12] in sentence
    assert corpus.sha256[:12] in sentence
    assert (resumed.state.best_val_loss, resumed.state.recent) == (math.inf, [])
    follow(resumed, other)
    assert resumed.state.best_step > 12
    assert resumed.state.best_val_loss != before
    about = read_json(run.folder / "config.json")["minigpt"]
    assert about["text"]["sha256"] == other.sha256
    assert [(one["name"], one["until_step"]) for one in about["earlier"]] == [("my.txt", 12)]
    assert "| up to step 12 | my.txt |" in (run.folder / "README.md").read_text()
    again, sentences = Run.resume(run.folder, corpus=other, max_iters=30)
    assert (again.state.best_val_loss, sentences) == (resumed.state.best_val_loss, [])
    with pytest.raises(ValueError, match="another text"):
        Run.resume(run.folder, corpus=corpus, max_iters=30)


@pytest.mark.parametrize("until", [13, 16, 18], ids=["at once", "at an evaluation", "later"])
def test_going_on_with_another_text_is_exact_too(tmp_path, finished, text, until):
    run, _ = finished
    shutil.copytree(run.folder, tmp_path / "parts")
    other = other_corpus(run, text)
    whole, _ = Run.resume(run.folder, corpus=other, other_text=True, max_iters=20)
    follow(whole, other)
    stopped, _ = Run.resume(tmp_path / "parts", corpus=other, other_text=True, max_iters=20)
    follow(stopped, other, until)
    resumed, _ = Run.resume(tmp_path / "parts", corpus=other)
    follow(resumed, other)
    assert weights_of(whole.folder) == weights_of(resumed.folder)
    assert vars(whole.state) | {"seconds": 0, "optimizer": 0} == vars(resumed.state) | {"seconds": 0, "optimizer": 0}


def test_a_kill_before_the_first_checkpoint_with_another_text_does_not_bring_the_old_best_back(finished, text):
    run, _ = finished
    other = other_corpus(run, text)
    Run.resume(run.folder, corpus=other, other_text=True, max_iters=20)
    resumed, _ = Run.resume(run.folder, corpus=other)
    assert (resumed.state.step, resumed.state.best_val_loss) == (12, math.inf)


def test_another_text_has_to_hold_a_window(finished):
    run, _ = finished
    Path("short.txt").write_text("the king")
    short = load_corpus(["short.txt"], DataConfig(), run.tokenizer)
    with pytest.raises(ValueError, match=r"short\.txt has 8 characters, but block_size 32 needs"):
        Run.resume(run.folder, corpus=short, other_text=True, max_iters=20)


@pytest.mark.parametrize(
    ("old", "new", "said"), [("z", "Z", "'Z' came and 'z' went"), ("za", "az", "its characters are in another order")]
)
def test_a_tokenizer_that_is_not_that_of_the_text_is_refused(finished, old, new, said):
    run, corpus = finished
    (run.folder / "manifest.json").unlink()  # the manifest would tell that the file was changed
    chars = "".join(sorted(corpus.tokenizer.chars)).translate(str.maketrans(old, new))
    (run.folder / "tokenizer.json").write_bytes(to_json(CharTokenizer(chars).to_hf()))
    with pytest.raises(ValueError, match=f"tokenizer.json is not that of its text; {said}"):
        Run.resume(run.folder, corpus=corpus, max_iters=20)


def test_another_machine_is_told_if_it_can_change_the_bits(finished, monkeypatch):
    run, corpus = finished
    assert Run.resume(run.folder, corpus=corpus, max_iters=20)[1] == []
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    _, (sentence,) = Run.resume(run.folder, corpus=corpus, max_iters=20)
    assert sentence.startswith("Not as before: threads 1 -> 7, MKL_CBWR unset -> COMPATIBLE.")


def weights_of(folder: Path) -> tuple[bytes, bytes]:
    """The best model and the last checkpoint's."""
    last = max((folder / "checkpoints").glob("step-*"))
    return (folder / "model.safetensors").read_bytes(), (last / "model.safetensors").read_bytes()


def test_what_was_logged_after_the_checkpoint_is_forgotten_when_resuming(tmp_path, text_file):
    run, corpus = make_run(tmp_path / "run", text_file)
    batches = Batches(corpus.train, 8, 32, run.config.seed)
    for metrics in train(run.model, batches, corpus.val, run.config, run.state):
        run.record(metrics)
        if metrics.step == 6:  # killed: the last checkpoint is that of step 4
            break
    resumed, _ = Run.resume(run.folder)
    assert resumed.state.step == 4
    assert [m["step"] for m in read_lines(run.folder / "metrics.jsonl")] == [0, 1, 2, 3, 4]
    follow(resumed, corpus)
    assert [m["step"] for m in read_lines(run.folder / "metrics.jsonl")] == list(range(13))


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["shorter", "changed", "gone"])
def test_a_damaged_checkpoint_is_noticed_skipped_and_told(finished, name, how):
    run, _ = finished
    older, step = sorted((run.folder / "checkpoints").iterdir())
    file = step / name
    data = bytearray(file.read_bytes())
    if how == "shorter":
        file.write_bytes(data[:-1] if name != "manifest.json" else data[:-3])
    elif how == "changed":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    else:
        file.unlink()
    assert damage(step)
    _, skipped = Run.resume(run.folder)
    assert len(skipped) == 1
    assert step.name in skipped[0]
    shutil.rmtree(older)
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        Run.resume(run.folder)


def test_old_runs_keep_loading():
    """A run written by the first version of the format, with what it wrote then."""
    model, tokenizer = load(FIXTURE)
    expected = read_json(FIXTURE / "expected.json")
    written = list(generate(model, start_ids(tokenizer, expected["prompt"]), SampleConfig(max_new_tokens=40, temperature=0)))
    assert tokenizer.decode(written) == expected["greedy"]
    with torch.no_grad():
        logits = model(torch.tensor([start_ids(tokenizer, expected["prompt"])]))[0][0, -1]
    torch.testing.assert_close(logits, torch.tensor(expected["logits"]), rtol=1e-4, atol=1e-4)


def test_an_old_run_can_be_resumed(tmp_path):
    shutil.copytree(FIXTURE, tmp_path / "run")
    run, skipped = Run.resume(tmp_path / "run", max_iters=100)
    assert (run.state.step, run.config.max_iters, skipped) == (20, 100, [])


def test_the_model_card_says_what_a_stranger_needs(finished):
    run, corpus = finished
    card = (run.folder / "README.md").read_text()
    for fact in (corpus.sha256, "my.txt", "minigpt generate", "AutoModelForCausalLM", f"{run.state.best_val_loss:.4f}"):
        assert fact in card
    assert card.count("\n| 4 |") == 1


def test_the_lines_of_code_in_the_model_card_work(finished, capsys):
    run, _ = finished
    card = (run.folder / "README.md").read_text()
    exec(card.split("```python\n")[1].split("```")[0], {})
    assert len(capsys.readouterr().out) > 20


def test_samples_are_written_with_one_prompt_and_one_seed(finished):
    samples = read_lines(finished[0].folder / "samples.jsonl")
    assert [s["step"] for s in samples] == [0, 4, 8, 12]
    assert len({(s["prompt"], s["seed"]) for s in samples}) == 1
    assert len({s["text"] for s in samples}) == 4


def test_bits_per_character_do_not_depend_on_the_tokenizer():
    assert bits_per_char(math.log(2)) == pytest.approx(1)
    assert bits_per_char(math.log(256) / 8, tokens_per_char=2) == pytest.approx(2)


def test_a_free_folder_is_found_beside_taken_ones(tmp_path):
    assert free_folder(tmp_path / "gpt") == tmp_path / "gpt"
    for name in ("gpt", "gpt-2"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").touch()
    assert free_folder(tmp_path / "gpt") == tmp_path / "gpt-3"


def test_no_pickle_is_read_or_written(finished):
    for path in finished[0].folder.rglob("*"):
        if path.is_file() and path.name != ".lock":
            assert path.suffix in {".json", ".jsonl", ".safetensors", ".md"}
            if path.suffix == ".json":
                json.loads(path.read_text())


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_run_whose_name_is_no_utf_8_opens(run):
    odd = run.rename(run.with_name(os.fsdecode(b"no \xff\xfe")))
    assert load(odd).generate(max_new_tokens=5)


@pytest.mark.skipif(os.name == "nt", reason="links are rare on Windows")
@pytest.mark.parametrize("what", ["checkpoints", "step", ".lock"])
def test_nothing_is_written_or_removed_outside_of_a_run(run, tmp_path, what):
    """A run that comes from somebody else may have links in it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    steps = sorted((run / "checkpoints").glob("step-*"))
    if what == ".lock":
        (run / ".lock").unlink(missing_ok=True)
        (run / ".lock").symlink_to(outside / "file")
        (outside / "file").write_text("precious")
    elif what == "step":
        for step in steps:
            shutil.move(step, outside / step.name)
            step.symlink_to(outside / step.name)
    else:
        (outside / ".x.tmp").touch()
        shutil.rmtree(run / "checkpoints")
        (run / "checkpoints").symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}
    with pytest.raises(ValueError, match=r"is a link|not a regular file|no checkpoint to resume from"):
        Run.resume(run, max_iters=4)
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
