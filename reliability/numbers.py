"""Numbers that go wrong: NaN and infinity wherever they can come in, and spikes, which are finite."""

import math
import random
import shlex
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn as nn

from minigpt.batches import Batches
from minigpt.bigram import BigramLanguageModel, LanguageModel
from minigpt.checkpoint import Run
from minigpt.config import GPTConfig, TrainConfig
from minigpt.corpus import Corpus, load_corpus
from minigpt.files import damage, read_tensors
from minigpt.model import GPT
from minigpt.modern import ModernGPT
from minigpt.trainer import RECENT, SPIKE, Metrics, NonFiniteLoss, train
from minigpt.watch import Watch

from .suite import Suite, Trial
from .trainings import TINY, WORDS, fingerprint, flags, run_minigpt, write_text

ARCHITECTURES = ("gpt", "modern", "bigram")
STEPS, EVERY = 12, 6
SMALL = TINY | {"max_iters": STEPS, "eval_interval": EVERY}
SETTINGS = {"batch_size": 4, "max_iters": STEPS, "eval_interval": EVERY, "learning_rate": 1e-2}


def begin(arch: str, folder: Path, corpus: Corpus, **settings: Any) -> Run:
    """A new run of a small model; today's GPT with Muon, the others with AdamW."""
    torch.manual_seed(1)
    vocab_size = corpus.tokenizer.vocab_size
    model: LanguageModel
    if arch == "bigram":
        model = BigramLanguageModel(vocab_size, block_size=8)
    else:
        kind = {"gpt": GPT, "modern": ModernGPT}[arch]
        model = kind(GPTConfig(vocab_size=vocab_size, block_size=8, n_layer=1, n_head=2, n_embd=16))
    optimizer = "muon" if arch == "modern" else "adamw"
    return Run.create(folder, model, corpus, TrainConfig(**{**SETTINGS, "optimizer": optimizer, **settings}))


def batches_of(run: Run, corpus: Corpus, kind: Callable[..., Batches] = Batches) -> Batches:
    return kind(corpus.train, run.config.batch_size, run.model.block_size, run.config.seed)


def follow(run: Run, corpus: Corpus, batches: Batches | None = None) -> Iterator[Metrics]:
    """Train a run to its end and keep what happens, as the command line does."""
    for metrics in train(run.model, batches or batches_of(run, corpus), corpus.val, run.config, run.state):
        run.record(metrics)
        yield metrics


# ---- NaN and infinity --------------------------------------------------------------------------------------------------


def prepare(shared: Path) -> None:
    """A text, and what undisturbed trainings come to."""
    corpus = load_corpus([write_text(shared / "text.txt")])
    for arch in ARCHITECTURES:
        list(follow(begin(arch, shared / arch, corpus), corpus))
    code, said = run_minigpt(["train", *flags(**SMALL, out="command line"), "text.txt"], shared)
    assert code == 0, said


def not_finite(trial: Trial) -> str:
    """One number of one step becomes NaN or infinite: the step is not taken, and nothing that was saved knows of it."""
    if trial.number % 11 == 10:
        return _at_the_command_line(trial)
    corpus, rng = load_corpus([trial.shared / "text.txt"]), trial.rng
    place = rng.choice(tuple(PLACES))
    arch = rng.choice(PLACES[place][1])
    run = begin(arch, trial.folder / "run", corpus)
    step = rng.randint(1 + (place == "the optimizer"), STEPS)  # before its first step, it keeps nothing
    value = rng.choice([math.nan, math.inf, -math.inf])
    about = f"{value} in step {step} of a {arch}, {place}"
    try:
        for metrics in follow(run, corpus):
            trial.check(metrics.step < step, f"not noticed: {about}")
            if metrics.step == step - 1:
                PLACES[place][0](run, corpus, value, rng)
    except NonFiniteLoss as error:
        trial.check(f"step {step} " in str(error), f"noticed as “{error}”: {about}")
    trial.check(run.state.step == step - 1, f"the step was counted: {about}")
    _check_last_checkpoint(trial, run.folder, step, about)
    resumed, notes = Run.resume(run.folder)
    list(follow(resumed, corpus))
    trial.check(not notes and fingerprint(run.folder) == fingerprint(trial.shared / arch), f"resumed to other bits: {about}")
    return place


def _check_last_checkpoint(trial: Trial, run: Path, step: int, about: str) -> None:
    """What was saved last is of the last evaluation before the step, whole, and finite."""
    last, evaluated = max((run / "checkpoints").glob("step-*")), (step - 1) // EVERY * EVERY
    trial.check(last.name == f"step-{evaluated:08d}" and not damage(last), f"the last checkpoint is {last.name}: {about}")
    for file in (last / "model.safetensors", last / "optimizer.safetensors", run / "model.safetensors"):
        bad = [name for name, tensor in read_tensors(file).items() if not tensor.isfinite().all()]
        trial.check(not bad, f"{file.name} has {bad} that is not finite: {about}")


def _at_the_command_line(trial: Trial) -> str:
    """The same as a person meets it: exit code 1, the step, and a command that goes on as it stands."""
    shutil.copy(trial.shared / "text.txt", trial.folder)
    step, value = trial.rng.randint(1, STEPS), trial.rng.choice([math.nan, math.inf, -math.inf])
    passes = iter(range(1, 10**9))

    def spoil(module: nn.Module, args: Any, output: Any) -> Any:
        if isinstance(module, LanguageModel) and module.training and next(passes) == step:
            return output[0], output[1] + value

    def arm() -> None:
        nn.modules.module.register_module_forward_hook(spoil)  # of all modules, in the child alone

    run = trial.folder / "command line"
    code, said = run_minigpt(["train", *flags(**SMALL, out=run.name), "text.txt"], trial.folder, arm)
    trial.check(code == 1 and f"at step {step} " in said and "Traceback" not in said, f"exit {code}: {said}")
    _check_last_checkpoint(trial, run, step, said)
    shutil.copytree(run, trial.folder / "lower")
    command = shlex.split(said.splitlines()[-1].replace(str(run.name), "lower"))
    arguments = command[command.index("train") :]
    trial.check("--learning-rate" in arguments, f"no lower learning rate: {said}")
    code, said = run_minigpt(arguments, trial.folder)
    trial.check(code == 0 and "best model" in said, f"the command that it named ended with {code}: {said}")
    code, said = run_minigpt(["train", "--resume", "--out", run.name], trial.folder)
    trial.check(fingerprint(run) == fingerprint(trial.shared / run.name), f"resumed to other bits: {said}")
    return "command line"


def _activation(run: Run, corpus: Corpus, value: float, rng: random.Random) -> None:
    """An element of what a layer puts out in the next pass. Not of the scores: there -inf says that a token cannot come."""
    left_out = ("lm_head", "q_norm", "k_norm")  # of the norms nobody asks the module (fused.py)
    layers = [m for name, m in run.model.named_modules() if not list(m.children()) and not name.endswith(left_out)]

    def spoil(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        return _spoiled(output, value, rng)

    rng.choice(layers).register_forward_hook(spoil)


def _weight(run: Run, corpus: Corpus, value: float, rng: random.Random) -> None:
    parameter = rng.choice(list(run.model.parameters()))
    parameter.data = _spoiled(parameter.data, value, rng)


def _unused_weight(run: Run, corpus: Corpus, value: float, rng: random.Random) -> None:
    """An element of the embedding of a token that does not occur in the next batch."""
    idx, _ = batches_of(run, corpus)[run.state.step]
    table = next(iter(run.model.parameters()))
    row = rng.choice(sorted(set(range(len(table))) - set(idx.flatten().tolist())))
    table.data[row] = _spoiled(table.data[row], value, rng)


def _gradient(run: Run, corpus: Corpus, value: float, rng: random.Random) -> None:
    rng.choice(list(run.model.parameters())).register_hook(lambda grad: _spoiled(grad, value, rng))


def _loss(run: Run, corpus: Corpus, value: float, rng: random.Random) -> None:
    run.model.register_forward_hook(lambda module, args, output: (output[0], output[1] + value))


def _optimizer(run: Run, corpus: Corpus, value: float, rng: random.Random) -> None:
    """An element of what the optimizer keeps: a mean of the gradient or of its square, or its count of steps."""
    kept = rng.choice(list(run.state.optimizer.state.values()))
    name = rng.choice(sorted(kept))
    kept[name] = _spoiled(kept[name], value, rng)


def _spoiled(tensor: torch.Tensor, value: float, rng: random.Random) -> torch.Tensor:
    """A copy of which one element is another."""
    flat = tensor.flatten().clone()
    flat[rng.randrange(len(flat))] = value
    return flat.view_as(tensor)


PLACES = {  # where a number is spoiled, and in which models that makes sense
    "an activation": (_activation, ("gpt", "modern")),
    "a weight": (_weight, ARCHITECTURES),
    "a weight that the batch does not use": (_unused_weight, ("modern", "bigram")),
    "a gradient": (_gradient, ARCHITECTURES),
    "the loss": (_loss, ARCHITECTURES),
    "the optimizer": (_optimizer, ARCHITECTURES),
}


# ---- spikes ------------------------------------------------------------------------------------------------------------

LENGTH = 180  # steps
QUIET = 360  # of a training in which nothing happens


def spikes(trial: Trial) -> str:
    """One batch, or one gradient, is far from all others, or none is."""
    words, rng = WORDS.split(), trial.rng
    (trial.folder / "text.txt").write_text("\n".join(" ".join(rng.choices(words, k=9)) for _ in range(400)))
    corpus, arch = load_corpus([trial.folder / "text.txt"]), rng.choice(ARCHITECTURES)
    return _undisturbed(trial, corpus, arch) if trial.number % 3 == 2 else _spiked(trial, corpus, arch)


def _undisturbed(trial: Trial, corpus: Corpus, arch: str) -> str:
    run = begin(arch, trial.folder / "run", corpus, max_iters=QUIET, eval_interval=QUIET, seed=trial.number)
    for metrics in follow(run, corpus):
        trial.check(not metrics.spike, f"a false alarm in step {metrics.step} of a {arch}: {metrics.spike}")
    return "undisturbed"


def _spiked(trial: Trial, corpus: Corpus, arch: str) -> str:
    rng = trial.rng
    step, what, skip = rng.randint(RECENT + 1, LENGTH), rng.choice(["batch", "gradient"]), rng.choice([True, False])
    settings = dict(max_iters=LENGTH, eval_interval=LENGTH // 2, seed=trial.number, skip_spikes=SPIKE * skip)

    def disturbed(run: Run) -> Iterator[Metrics]:
        batches = batches_of(run, corpus, partial(OneBad, run.model, step - 1)) if what == "batch" else None
        for parameter in run.model.parameters() if what == "gradient" else ():
            parameter.register_hook(lambda grad: grad * 1000 if run.state.step == step - 1 else grad)
        return follow(run, corpus, batches)

    about = f"a {what} in step {step} of a {arch}"
    whole, watch, said = begin(arch, trial.folder / "whole", corpus, **settings), Watch(), []
    before = torch.empty(0)
    for metrics in disturbed(whole):
        said += [sentence for sentence in watch.see(metrics) if "spike" in sentence.lower()]
        trial.check(bool(metrics.spike) == (metrics.step == step), f"spike {metrics.spike} in step {metrics.step}: {about}")
        if metrics.step == step:
            trial.check(metrics.skipped == skip, f"skipped is {metrics.skipped}: {about}")
            trial.check(torch.equal(before, _everything(whole)) == skip, f"the weights are not as they should be: {about}")
        before = _everything(whole)
    trial.check(len(said) == 1 and f"step {step}" in said[0], f"{said} was said: {about}")

    stop = rng.randint(RECENT // 2, LENGTH - 1)
    stopped = begin(arch, trial.folder / "stopped", corpus, **settings)
    for metrics in disturbed(stopped):
        if metrics.step == stop:
            break
    stopped.save()
    resumed, _ = Run.resume(stopped.folder)
    list(disturbed(resumed))
    trial.check(fingerprint(resumed.folder) == fingerprint(whole.folder), f"resumed at step {stop} to other bits: {about}")
    return f"{what}, left out" if skip else what


class OneBad(Batches):
    """Batches of which one has, at each position, the target that the model expects least."""

    def __init__(self, model: LanguageModel, bad: int, *rest: Any) -> None:
        super().__init__(*rest)
        self.model, self.bad = model, bad  # the number of that batch

    def __getitem__(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        idx, targets = super().__getitem__(step)
        if step != self.bad:
            return idx, targets
        with torch.no_grad():
            return idx, self.model(idx)[0].argmin(-1)


def _everything(run: Run) -> torch.Tensor:
    """The weights, and what the optimizer keeps for them."""
    kept = [tensor for state in run.state.optimizer.state.values() for tensor in state.values()]
    return torch.cat([tensor.detach().flatten().clone() for tensor in (*run.model.parameters(), *kept)])


SUITES = [
    Suite(
        "not-finite",
        "A NaN or an infinity in any place is noticed in its step; what was saved is finite and resumes to the same bits.",
        not_finite,
        full=100,
        quick=10,
        prepare=prepare,
        together=5,
    ),
    Suite(
        "spikes",
        "A spike is told once and left out where asked, nothing else is taken for one, and resuming changes no bit of that.",
        spikes,
        full=100,
        quick=6,
        together=5,
    ),
]
