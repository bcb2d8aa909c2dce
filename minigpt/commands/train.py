"""minigpt train, minigpt plan: from a text to a run. Their flags are the fields of the config classes.

Next: write.py
"""

import difflib
import os
import tomllib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from ..config import RECIPES, SIZES, DataConfig, Faults, GPTConfig, TrainConfig, from_dict, with_muon
from ..program import DEVICE, choose_device, compile_first, flags, one_of, running_s, say, training_device, usage

ARCHITECTURES = {"modern": "qwen3", "gpt": "gpt2", "bigram": "minigpt-bigram"}  # our name -> model_type of the run
RECIPE_LINES = [
    f"  {name:<8} " + " ".join(f"{key}={value}" for key, value in recipe.items()) for name, recipe in RECIPES.items()
]
MUON_LINE = (
    "\nWith Muon, which --arch modern takes, instead: learning_rate 2.56 / n_embd, in a straight line to zero, no warm-up, "
    "beta1 0.85."
)
COMPILED_FROM = 10  # minutes
# What decides over a flag that is not given, where no number can be told.
BY_ARCH = dict.fromkeys(with_muon({}, 1), "by arch")
BY_SIZE = dict.fromkeys((name for recipe in RECIPES.values() for name in recipe), "by size")
BY_PLAN = dict.fromkeys(("n_layer", "n_head", "n_embd", "block_size", "dropout", "batch_size", "learning_rate", "min_lr",
                         "warmup_iters", "eval_interval", "eval_tokens"), "by plan")  # fmt: skip


def _read_toml(context: click.Context, parameter: click.Parameter, path: Path | None) -> dict[str, Any]:
    """The values of a --config file, by parameter name. Raises a usage error for keys that are no flags."""
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{path} is not valid TOML: {error}") from None
    values = {name.replace("-", "_"): value for name, value in values.items()}
    known = {p.name for p in context.command.params if isinstance(p, click.Option) and p.name} - {"config_file"}
    faults = Faults()
    for name in values:
        with faults:
            if name not in known:
                close = difflib.get_close_matches(name, known, 1)
                hint = f"; did you mean {close[0]!r}?" if close else ""
                raise ValueError(f"{path} sets {name!r}, which is no flag of this command{hint}")
    with usage():
        faults.tell()
    return values


@click.command(epilog="\b\nDefaults by size; a bigram has its own:\n" + "\n".join(RECIPE_LINES) + MUON_LINE)
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@click.option("--out", metavar="DIR", help="the folder of the run  [default: runs/ and the name of the text]")
@click.option(
    "--resume", is_flag=True, default=None, help="go on with the run in --out (or the latest) from its last checkpoint"
)
@click.option(
    "--other-text",
    is_flag=True,
    default=None,
    help="with --resume: TEXT is another one than before; characters that the model does not know are dropped",
)
@click.option("--arch", metavar="NAME", help=f"architecture: {', '.join(ARCHITECTURES)}  [default: modern]")
@click.option(
    "--size",
    metavar="NAME",
    help=f"recipe for a gpt: auto, {', '.join(SIZES)}; auto = laptop (with --arch gpt small), on CUDA lecture, with "
    "--minutes what the plan chooses  [default: auto]",
)
@click.option("--device", metavar="NAME", help=f"{DEVICE}  [default: auto]")
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    callback=_read_toml,
    metavar="FILE",
    help="TOML file with any of these flags as keys, such as n_layer = 6; flags given by hand win",
)
@click.option(
    "--profile", is_flag=True, default=None, help="record ten steps: a table of where their time went, and trace.json"
)
@flags(GPTConfig, TrainConfig, DataConfig, leave_out=["vocab_size"], **BY_ARCH | BY_SIZE)
def train(config_file: dict[str, Any], **flags: Any) -> None:
    """Train a model on TEXT: files, folders (every *.txt in them), or - for standard input.

    Without TEXT: input.txt in this folder, else tiny Shakespeare, else the manual that comes with Python.

    \b
    minigpt train my.txt
    minigpt train my.txt --minutes 5          the best model that this machine can train in 5 minutes
    minigpt train my.txt --n-layer 6 --n-embd 192 --max-iters 3000
    minigpt train books/ more.txt --out runs/books --dropout 0.1
    minigpt train --resume --out runs/books

    The model is saved after every evaluation. Ctrl-C stops after the step, saves, and says how to go on.
    """
    given = config_file | {name: value for name, value in flags.items() if value is not None}
    texts = tuple(given.pop("texts", ()))
    switches = {name: given.pop(name, False) for name in ("resume", "other_text", "profile")}
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise click.UsageError(f"{name} is {value!r}; it must be true or false")
    if switches["resume"]:
        _resume(texts, given, switches["other_text"], switches["profile"])
    elif switches["other_text"]:
        raise click.UsageError("--other-text is for a run that goes on; add --resume, or leave it out")
    else:
        _train(texts, given, switches["profile"])


def _train(texts: tuple[str, ...], given: dict[str, Any], profile: bool) -> None:
    arch = one_of("arch", given.get("arch", "modern"), tuple(ARCHITECTURES))
    size = one_of("size", given.get("size", "auto"), ("auto", *SIZES))
    out = given.get("out")
    with usage():  # what no device could accept is refused before torch is loaded
        faults = Faults()
        with faults:
            _text("out", out)
        with faults:
            _check_end(given)
        planned = size == "auto" and arch != "bigram" and bool(given.get("minutes"))
        with faults:
            _check_values(arch, size, given, planned)
        faults.tell()

    import torch

    from ..bigram import BigramLanguageModel, LanguageModel
    from ..checkpoint import Run, check_new, free_folder
    from ..console import architecture
    from ..corpus import load_corpus
    from ..model import GPT
    from ..modern import ModernGPT

    device = training_device(given.get("device", "auto"))
    if size == "auto" and not planned:
        size = "lecture" if device.startswith("cuda") else _usual(arch)
    with usage():
        if planned:
            data_config = from_dict(DataConfig, given)
        else:
            gpt_config, train_config, data_config = _configs(arch, size, given)
    if out is not None:
        check_new(Path(out))
    corpus = load_corpus(texts, data_config)
    for note in corpus.notes:
        say(note)
    say(corpus.describe())
    if arch != "bigram":
        compile_first(device)
    if planned:
        gpt_config, train_config = _planned(corpus, arch, device, given)
    corpus.check(gpt_config.block_size)
    torch.manual_seed(train_config.seed)
    vocab_size = corpus.tokenizer.vocab_size
    model: LanguageModel
    if arch == "bigram":
        model = BigramLanguageModel(vocab_size, gpt_config.block_size)
    else:
        gpt_config = from_dict(GPTConfig, vars(gpt_config) | {"vocab_size": vocab_size})
        _check_memory(gpt_config.n_params)
        model = {"gpt": GPT, "modern": ModernGPT}[arch](gpt_config)
    model.to(device)
    number = "" if train_config.minutes and not planned else f"{train_config.max_iters:,} "  # else the clock will tell
    say(f"\n{architecture(model)}\n")
    say(f"On {_device_name(device)}, {number}steps of {_tokens(train_config, gpt_config):,} tokens.")
    name = _slug(corpus.name) + ("" if arch == "modern" else f"-{arch}")
    folder = free_folder(Path("runs") / name) if out is None else Path(out)
    say(f"Run: {folder}\n")
    _follow(lambda: Run.create(folder, model, corpus, train_config), corpus, profile)


def _resume(texts: tuple[str, ...], given: dict[str, Any], other_text: bool, profile: bool) -> None:
    with usage():
        _text("out", given.get("out"))
    out = Path(given.get("out") or _latest_run())

    from ..checkpoint import Run
    from ..corpus import load_corpus
    from ..hf import sizes
    from ..saved import fitting_tokenizer, read_run_config, text_paths

    config_file = read_run_config(out)
    about = config_file["minigpt"]
    fixed = {
        "arch": next((name for name, kind in ARCHITECTURES.items() if kind == config_file["model_type"]), "a rung"),
        **dict.fromkeys(("n_layer", "n_head", "n_embd", "dropout")),  # what a bigram has not
        **sizes(config_file, config_file["model_type"]),
        **{name: about["text"][name] for name in ("tokenizer", "encoding", "val_fraction")},
        "optimizer": about["train"]["optimizer"],  # what it keeps is of no use to another
    }
    if other_text:
        del fixed["encoding"]
    changes = {name: value for name, value in given.items() if name in about["train"]}
    with usage():
        faults = Faults()
        for name, value in given.items():
            with faults:
                if name in fixed and fixed[name] is None:
                    raise ValueError(f"{out} holds a bigram, which has no {name}")
                if name in fixed and fixed[name] != value:
                    raise ValueError(f"{name} is {fixed[name]} in {out} and cannot become {value}; start a new run for that")
                if name == "size":
                    raise ValueError("size is for a new run; a run that goes on keeps its own")
        with faults:
            _check_end({"minutes": about["train"]["minutes"]} | changes)
        with faults:
            TrainConfig(**about["train"]).changed(changes)
        with faults:
            data_config = from_dict(DataConfig, about["text"] | {name: given[name] for name in given.keys() & {"encoding"}})
        faults.tell()
    device = training_device(given.get("device", "auto"))
    if config_file["model_type"] != ARCHITECTURES["bigram"]:
        compile_first(device)

    tokenizer = fitting_tokenizer(out, config_file)
    corpus = load_corpus(texts or text_paths(out, about), data_config, tokenizer, "drop")
    for note in corpus.notes:
        say(note)
    run, sentences = Run.resume(out, device, corpus, other_text, **changes)
    for name, value in changes.items():
        if about["train"][name] != value:
            say(f"{name}: {about['train'][name]} -> {value}")
    for sentence in sentences:
        say(sentence)
    last = run.state.ends_at(run.config)
    if run.state.is_over(run.config):
        more = "--minutes" if run.config.minutes else "--max-iters"
        say(f"{out} is already at step {run.state.step:,} of {last:,}; give more with {more}")
        return
    say(f"Going on with {out} at step {run.state.step:,} of {last:,}, on {_device_name(device)}.\n")
    _follow(lambda: run, corpus, profile)


def _planned(corpus: Any, arch: str, device: str, given: dict[str, Any]) -> tuple[GPTConfig, TrainConfig]:
    """Find the plan for the minutes that are given, and show it."""
    from ..planner import plan

    minutes = given["minutes"]
    say(f"\nMeasuring {_device_name(device)} for a plan of {minutes:g} {'minute' if minutes == 1 else 'minutes'} ...")
    with usage():
        found = plan(corpus, minutes, arch, device, given, spent=running_s())
    say(found.describe(corpus.tokens_per_char))
    return found.shape, found.config


def _follow(begin: Callable[[], Any], corpus: Any, profile: bool) -> None:
    """Train a run to its end, showing and keeping what happens. It begins where signals are heeded already."""
    from ..batches import Batches
    from ..console import Progress, StopSignals, farewell, rescue
    from ..profile import Profile
    from ..trainer import train

    with StopSignals() as stop:
        run = begin()
        config = run.config
        if config.minutes and run.state.step == 0:
            run.state.seconds = running_s()  # the minutes began with the program
        batches = Batches(corpus.train, config.batch_size, run.model.block_size, config.seed)
        with ExitStack() as stack:
            recorder = stack.enter_context(Profile(run.folder)) if profile else None
            stack.enter_context(rescue(run))
            progress = stack.enter_context(Progress(config, corpus.tokens_per_char, run.state.step))
            progress.watch.remember(run.evaluations())
            for metrics in train(run.model, batches, corpus.val, config, run.state, step_by_step=profile):
                run.record(metrics)
                progress.update(metrics, run.sample)
                if recorder and metrics.loss is not None:
                    recorder.step(metrics.val_loss is not None)
                if stop.requested and metrics.step == run.state.step:  # a GPU can be some steps ahead of what is told
                    break
    if recorder:
        say(f"\n{recorder.table}")
    if stop.requested:
        stop.leave(run)
    farewell(run)


@click.command()
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@click.option("--minutes", type=float, required=True, metavar="N", help="the time that there is, from start to saved model")
@click.option("--arch", default="modern", metavar="NAME", help="architecture: modern, gpt  [default: modern]")
@click.option("--device", default="auto", metavar="NAME", help=f"{DEVICE}  [default: auto]")
@flags(GPTConfig, TrainConfig, DataConfig, leave_out=["vocab_size", "minutes", "max_iters"], **BY_ARCH | BY_PLAN)
def plan(texts: tuple[str, ...], minutes: float, arch: str, device: str, **flags: Any) -> None:
    """Say what `minigpt train TEXT --minutes N` would train, without training it.

    \b
    minigpt plan my.txt --minutes 5
    minigpt plan my.txt --minutes 60 --block-size 512

    Measures this machine for a few seconds, reads the text, and chooses size, context, batch, steps, dropout and rates.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    one_of("arch", arch, ("modern", "gpt"))
    with usage():
        faults = Faults()
        with faults:
            if not minutes > 0:
                raise ValueError(f"minutes is {minutes:g}; it must be above 0")
            _check_end(given | {"minutes": minutes})
        with faults:
            _check_values(arch, "auto", given | ({"minutes": minutes} if minutes > 0 else {}), planned=True)
        faults.tell()

    from ..card import argument
    from ..corpus import load_corpus

    where = choose_device(device)
    corpus = load_corpus(texts, from_dict(DataConfig, given))
    for line in (*corpus.notes, corpus.describe()):
        say(line)
    compile_first(where)
    _planned(corpus, arch, where, given | {"minutes": minutes})
    chosen = {"minutes": f"{minutes:g}", "arch": arch, "device": device} | given
    chosen = {name: value for name, value in chosen.items() if (name, value) not in (("arch", "modern"), ("device", "auto"))}
    same = [f"--{name.replace('_', '-')} {argument(str(value))}" for name, value in chosen.items()]
    say("\nTrain it:\n  " + " ".join(["minigpt train", *map(argument, texts), *same]))


# ---- helpers -----------------------------------------------------------------------------------------------------------


def _configs(arch: str, size: str, given: dict[str, Any]) -> tuple[GPTConfig, TrainConfig, DataConfig]:
    """The recipe of a size with the given values over it. What is derived follows what was given.

    Raises ValueError with the faults of all of them.
    """
    recipe, faults = RECIPES["bigram" if arch == "bigram" else size], Faults()
    with faults:
        if arch == "bigram" and (strange := {"n_layer", "n_head", "n_embd", "dropout", "size"} & given.keys()):
            raise ValueError(f"a bigram has no {', '.join(sorted(strange))}; leave it out, or choose --arch gpt")
    n_embd = recipe.get("n_embd", 1)
    with faults:
        shape = from_dict(GPTConfig, recipe | given)
        n_embd = shape.n_embd
        if arch == "modern":
            shape.check_rotary()
    if arch != "bigram" and given.get("optimizer", "muon" if arch == "modern" else "adamw") == "muon":
        recipe = with_muon(recipe, n_embd)
    elif "learning_rate" in given:
        recipe = {name: value for name, value in recipe.items() if name != "min_lr"}
    with faults:
        train_config = from_dict(TrainConfig, recipe | given)
    with faults:
        data_config = from_dict(DataConfig, given)
    faults.tell()
    return shape, train_config, data_config


def _check_end(given: dict[str, Any]) -> None:
    """Raise ValueError if two settings say when to end, or if the end would come before the model is compiled."""
    if given.get("minutes") and "max_iters" in given:
        raise ValueError("minutes and max_iters both say when to end; leave one of them out, or add --minutes 0")
    minutes = given.get("minutes")
    if given.get("compile") == "on" and isinstance(minutes, int | float) and 0 < minutes < COMPILED_FROM:
        raise ValueError(
            f"to compile takes a minute or two; compile is for {COMPILED_FROM} minutes and more, so leave it out"
        )


def _check_values(arch: str, size: str, given: dict[str, Any], planned: bool) -> None:
    """Raise ValueError unless these values can be put over the size: if it is auto, over one of those that it may become.

    planned: heads or channels that are not given will be made to suit those that are.
    """
    if planned and "n_embd" in given:
        given = {"n_head": 1} | given
    elif planned and isinstance(given.get("n_head"), int) and given["n_head"] > 0:
        given = given | {"n_embd": 2 * given["n_head"]}
    try:
        _configs(arch, _usual(arch) if size == "auto" else size, given)
    except ValueError as fault:
        if size != "auto" or arch == "bigram":
            raise
        try:
            _configs(arch, "lecture", given)
        except ValueError:
            raise fault from None


def _usual(arch: str) -> str:
    """The size for a processor, and for a GPU of a laptop."""
    return "laptop" if arch == "modern" else "small"


def _text(name: str, value: Any) -> None:
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{name} is {value!r}; it must be a text")


def _tokens(train_config: TrainConfig, gpt_config: GPTConfig) -> int:
    return train_config.batch_size * train_config.grad_accum_steps * gpt_config.block_size


def _check_memory(n_params: int) -> None:
    """Refuse a model whose weights, gradients and optimizer state cannot fit in this machine's memory."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return
    need = 16 * n_params
    if need > memory:
        raise click.UsageError(
            f"this model has {n_params:,} parameters; training needs at least {need / 2**30:,.1f} GB and this machine has "
            f"{memory / 2**30:,.1f} GB. Make n_layer, n_embd or block_size smaller"
        )


def _device_name(device: str) -> str:
    import torch

    if device.startswith("cuda"):
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)" if device == "cpu" else device


def _slug(name: str) -> str:
    """A folder name from the name of a text: "Mein Buch.txt" -> "mein-buch"."""
    stem = Path(name).stem.lower()
    return "-".join("".join(char if char.isalnum() else " " for char in stem).split())[:60] or "text"


def _latest_run() -> str:
    runs = sorted(Path("runs").glob("*/checkpoints/step-*"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise click.UsageError("there is no run under runs/ to resume; name one with --out")
    return str(runs[-1].parent.parent)
