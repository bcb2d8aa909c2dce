"""The command line: minigpt train, plan, generate, chat, novelty, eval, info, explain, check, doctor, ladder.

Here arguments become calls. The flags of `train` and `generate` are the fields of the config classes.
"""

import difflib
import json
import math
import os
import sys
import time
import tomllib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click

from . import __version__
from .config import RECIPES, SIZES, DataConfig, Faults, GPTConfig, SampleConfig, TrainConfig, from_dict, with_muon
from .program import DEVICE, SETTINGS, choose_device, flags, one_of, run as run_command, running_s, training_device, usage

ARCHITECTURES = {"modern": "qwen3", "gpt": "gpt2", "bigram": "minigpt-bigram"}  # our name -> model_type of the run
ANSWERS = {"fit": "fit for training.", "limited": "fit, with these limits.", "unfit": "do not use it for training."}
UNKNOWN = "what to do with a character that the model never saw: error, drop"


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


# ---- commands ----------------------------------------------------------------------------------------------------------

RECIPE_LINES = [
    f"  {name:<8} " + " ".join(f"{key}={value}" for key, value in recipe.items()) for name, recipe in RECIPES.items()
]
MUON_LINE = "\nWith Muon: learning_rate 2.56 / n_embd, in a straight line to zero, no warm-up, beta1 0.85."


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would call it a failure
            return None


@click.group(cls=_Commands, context_settings=SETTINGS)
@click.version_option(__version__, "-V", "--version", message="minigpt %(version)s")
def cli() -> None:
    """Train a small GPT on your own text, understand it, and take it anywhere.

    \b
    minigpt train                     learn from tiny Shakespeare, or from ./input.txt
    minigpt train my.txt              learn from your own text (files, folders, - for standard input)
    minigpt generate runs/my          let the model write
    """


@cli.command(epilog="\b\nDefaults by size; a bigram has its own:\n" + "\n".join(RECIPE_LINES) + MUON_LINE)
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
    help=f"recipe for a gpt: auto, {', '.join(SIZES)}; auto = small, on a GPU lecture  [default: auto]",
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
@flags(GPTConfig, TrainConfig, DataConfig, leave_out=["vocab_size"], by_size=True)
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
            _configs(arch, _fitting_size(arch, given) if size == "auto" else size, given)
        faults.tell()

    import torch

    from .bigram import BigramLanguageModel, LanguageModel
    from .checkpoint import Run, check_new, free_folder
    from .console import architecture, say
    from .corpus import load_corpus
    from .model import GPT
    from .modern import ModernGPT

    device = training_device(given.get("device", "auto"))
    planned = size == "auto" and arch != "bigram" and bool(given.get("minutes"))
    if size == "auto":
        size = "small" if device == "cpu" else "lecture"
    with usage():
        gpt_config, train_config, data_config = _configs(arch, size, given)
    if out is not None:
        check_new(Path(out))
    corpus = load_corpus(texts, data_config)
    for note in corpus.notes:
        say(note)
    say(corpus.describe())
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
    say(
        f"\n{architecture(model)}\n\nOn {_device_name(device)}, {train_config.max_iters:,} steps "
        f"of {_tokens(train_config, gpt_config):,} tokens."
    )
    name = _slug(corpus.name) + ("" if arch == "modern" else f"-{arch}")
    folder = free_folder(Path("runs") / name) if out is None else Path(out)
    say(f"Run: {folder}\n")
    _follow(lambda: Run.create(folder, model, corpus, train_config), corpus, profile)


def _resume(texts: tuple[str, ...], given: dict[str, Any], other_text: bool, profile: bool) -> None:
    with usage():
        _text("out", given.get("out"))
    out = Path(given.get("out") or _latest_run())

    from .checkpoint import MODELS, Run, fitting_tokenizer, read_run_config
    from .console import say
    from .corpus import load_corpus

    config_file = read_run_config(out)
    about = config_file["minigpt"]
    fixed = {
        "arch": next((name for name, kind in ARCHITECTURES.items() if kind == config_file["model_type"]), "a rung"),
        **dict.fromkeys(("n_layer", "n_head", "n_embd", "dropout")),  # what a bigram has not
        **MODELS[config_file["model_type"]].shape_from_hf(config_file),
        **{name: about["text"][name] for name in ("tokenizer", "encoding", "val_fraction")},
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
            TrainConfig(**about["train"]).changed(changes)
        with faults:
            data_config = from_dict(DataConfig, about["text"] | {name: given[name] for name in given.keys() & {"encoding"}})
        faults.tell()
    device = training_device(given.get("device", "auto"))

    tokenizer = fitting_tokenizer(out, config_file)
    corpus = load_corpus(texts or _own_text(out, about), data_config, tokenizer, "drop")
    for note in corpus.notes:
        say(note)
    run, sentences = Run.resume(out, device, corpus, other_text, **changes)
    for name, value in changes.items():
        if about["train"][name] != value:
            say(f"{name}: {about['train'][name]} -> {value}")
    for sentence in sentences:
        say(sentence)
    last = run.state.ends_at(run.config)
    if run.state.step >= last:
        more = "--minutes" if run.config.minutes else "--max-iters"
        say(f"{out} is already at step {run.state.step:,} of {last:,}; give more with {more}")
        return
    say(f"Going on with {out} at step {run.state.step:,} of {last:,}, on {_device_name(device)}.\n")
    _follow(lambda: run, corpus, profile)


def _planned(corpus: Any, arch: str, device: str, given: dict[str, Any]) -> tuple[GPTConfig, TrainConfig]:
    """Find the plan for the minutes that are given, and show it."""
    from .console import say
    from .planner import plan

    minutes = given["minutes"]
    say(f"\nMeasuring {_device_name(device)} for a plan of {minutes:g} {'minute' if minutes == 1 else 'minutes'} ...")
    with usage():
        found = plan(corpus, minutes, arch, device, given, spent=running_s())
    left = 60 * found.config.minutes - running_s()
    end = time.strftime("%H:%M:%S", time.localtime(time.time() + left))
    sooner = ", sooner than asked: more would only be learned by heart" if found.config.minutes < minutes else ""
    say(f"{found.describe(corpus.tokens_per_char)}\n  {'ends':<10}at {end}{sooner}")
    return found.shape, found.config


def _follow(begin: Callable[[], Any], corpus: Any, profile: bool) -> None:
    """Train a run to its end, showing and keeping what happens. It begins where signals are heeded already."""
    from .batches import Batches
    from .console import Progress, StopSignals, farewell, rescue, say
    from .profile import Profile
    from .trainer import train

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
            for metrics in train(run.model, batches, corpus.val, config, run.state):
                run.record(metrics)
                progress.update(metrics, run.sample)
                if recorder:
                    recorder.step()
                if stop.requested:
                    break
    if recorder:
        say(f"\n{recorder.table}")
    if stop.requested:
        stop.leave(run)
    farewell(run)


@cli.command()
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@click.option("--minutes", type=float, required=True, metavar="N", help="the time that there is, from start to saved model")
@click.option("--arch", default="modern", metavar="NAME", help="architecture: modern, gpt  [default: modern]")
@click.option("--device", default="auto", metavar="NAME", help=f"{DEVICE}  [default: auto]")
@flags(GPTConfig, DataConfig, leave_out=["vocab_size"])
def plan(texts: tuple[str, ...], minutes: float, arch: str, device: str, **flags: Any) -> None:
    """Say what `minigpt train TEXT --minutes N` would train, without training it.

    \b
    minigpt plan my.txt --minutes 5
    minigpt plan my.txt --minutes 60 --block-size 512

    Measures this machine for a few seconds, reads the text, and chooses size, context, batch, steps and learning rate.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    one_of("arch", arch, ("modern", "gpt"))
    with usage():
        faults = Faults()
        with faults:
            if not minutes > 0:
                raise ValueError(f"minutes is {minutes:g}; it must be above 0")
        with faults:
            _, _, data_config = _configs(arch, _fitting_size(arch, given), given)
        faults.tell()

    from .card import argument
    from .console import say
    from .corpus import load_corpus

    device = choose_device(device)
    corpus = load_corpus(texts, data_config)
    for line in (*corpus.notes, corpus.describe()):
        say(line)
    shape, _ = _planned(corpus, arch, device, given | {"minutes": minutes})
    corpus.check(shape.block_size)
    say("\nTrain it:\n  " + " ".join(["minigpt train", *map(argument, texts), f"--minutes {minutes:g}"]))


@cli.command()
@click.argument("run", type=Path, metavar="RUN")
@click.option(
    "--prompt", default="", metavar="TEXT", help="what the text begins with; nothing = a new line (or the first token)"
)
@click.option("--num-samples", type=int, default=1, metavar="N", help="texts to write  [default: 1]")
@click.option("--stop", multiple=True, metavar="TEXT", help="end a text before this; may be given several times")
@click.option("--unknown", default="error", metavar="WHAT", help=f"{UNKNOWN}  [default: error]")
@click.option("--device", default="auto", metavar="NAME", help=f"{DEVICE}  [default: auto]")
@flags(SampleConfig)
def generate(
    run: Path, prompt: str, num_samples: int, stop: tuple[str, ...], unknown: str, device: str, **flags: Any
) -> None:
    """Let the best model of RUN write, character by character, to standard output.

    \b
    minigpt generate runs/my --prompt "ROMEO:" --max-new-tokens 300
    minigpt generate runs/my --temperature 0.8 --top-k 20 --num-samples 3
    minigpt generate runs/my --prompt "JULIET:" --stop "\\n\\n"

    The same seed gives the same text on the same machine. Text beyond the context length works: the window slides.
    """
    with usage():
        faults = Faults()
        with faults:
            config = from_dict(SampleConfig, {name: value for name, value in flags.items() if value is not None})
        with faults:
            if not 1 <= num_samples <= 10**6:
                raise ValueError(f"num_samples is {num_samples}; it must be a whole number from 1 to 1,000,000")
        faults.tell()
    one_of("unknown", unknown, ("error", "drop"))
    if any(not text for text in stop):
        raise click.UsageError("--stop needs a text, not an empty one")

    from .checkpoint import load
    from .engine import write
    from .files import without_controls

    model, tokenizer = load(run, choose_device(device))
    prompt = os.fsencode(prompt).decode("utf-8", "replace")  # whatever the locale
    prompt = tokenizer.decode(tokenizer.encode(prompt, unknown))  # an unknown character is told before anything is written
    stop = tuple(text.replace("\\n", "\n") for text in stop)
    shown = without_controls if sys.stdout.isatty() else str  # a model may come from anyone; a file gets what it wrote
    for sample in range(num_samples):
        if sample:
            print("-" * 40)
        print(shown(prompt), end="")
        for piece in write(model, tokenizer, prompt, config, sample, stop):
            print(shown(piece), end="", flush=True)
        print(flush=True)


@cli.command()
@click.argument("run", type=Path, metavar="RUN")
@click.option("--device", default="auto", metavar="NAME", help=f"{DEVICE}  [default: auto]")
@flags(SampleConfig)
def chat(run: Path, device: str, **flags: Any) -> None:
    """Write a text together with the best model of RUN, in turns.

    \b
    minigpt chat runs/my
    minigpt chat runs/my --temperature 0.8 --max-new-tokens 100

    It goes on from whatever was written, as a model does that has only read. /help lists what can be done; Ctrl-C stops an
    answer, Ctrl-D ends.
    """
    with usage():
        config = from_dict(SampleConfig, {"max_new_tokens": 200} | {n: v for n, v in flags.items() if v is not None})

    from .chat import Chat
    from .checkpoint import load
    from .console import say
    from .files import without_controls

    model, tokenizer = load(run, choose_device(device))
    talk = Chat(model, tokenizer, config)
    say("Write something, and the model goes on from there. /help lists what else can be done.")
    while not talk.over:
        try:
            for piece in talk.answer(input("> ")):
                print(without_controls(piece), end="", flush=True)
            print()
        except EOFError:
            break
        except KeyboardInterrupt:
            print()
        except ValueError as error:
            say(str(error))


@cli.command()
@click.argument("run", type=Path, metavar="RUN")
@click.option("--num-samples", type=int, default=5, metavar="N", help="texts to write  [default: 5]")
@click.option("--json", "as_json", is_flag=True, help="print the figures as JSON")
@click.option("--device", default="auto", metavar="NAME", help=f"{DEVICE}  [default: auto]")
@flags(SampleConfig)
def novelty(run: Path, num_samples: int, as_json: bool, device: str, **flags: Any) -> None:
    """Say how much of what the best model of RUN writes stands in its training text, letter for letter.

    \b
    minigpt novelty runs/my
    minigpt novelty runs/my --num-samples 20 --temperature 0.5

    Beside it: how much of the validation text does, which the model never saw.
    """
    with usage():
        config = from_dict(SampleConfig, {name: value for name, value in flags.items() if value is not None})
        if not 1 <= num_samples <= 1000:
            raise ValueError(f"num_samples is {num_samples}; it must be a whole number from 1 to 1,000")

    from .checkpoint import load, read_run_config
    from .corpus import load_corpus
    from .engine import write
    from .novelty import novelty as compare

    model, tokenizer = load(run, choose_device(device))
    about = read_run_config(run)["minigpt"]["text"]
    corpus = load_corpus(_own_text(run, {"text": about}), from_dict(DataConfig, about), tokenizer, "drop")
    if corpus.sha256 != about["sha256"]:
        raise ValueError(f"the text that {run} was trained on ({about['name']}) is not here or has changed")
    samples = ["".join(write(model, tokenizer, "", config, sample)) for sample in range(num_samples)]
    found = compare(samples, tokenizer.decode(corpus.train), tokenizer.decode(corpus.val))
    print(json.dumps(found.to_dict()) if as_json else found.describe())


@cli.command(name="eval")
@click.argument("run", type=Path, metavar="RUN")
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@click.option("--encoding", default="utf-8", metavar="NAME", help="how the files are encoded  [default: utf-8]")
@click.option("--unknown", default="error", metavar="WHAT", help=f"{UNKNOWN}  [default: error]")
@click.option("--device", default="auto", metavar="NAME", help=f"{DEVICE}  [default: auto]")
def evaluate(run: Path, texts: tuple[str, ...], encoding: str, unknown: str, device: str) -> None:
    """Measure how well the best model of RUN predicts TEXT, or the validation part of the text it was trained on.

    \b
    minigpt eval runs/my
    minigpt eval runs/my another.txt
    """
    one_of("unknown", unknown, ("error", "drop"))
    with usage():
        data_config = DataConfig(encoding=encoding)

    from .checkpoint import load, read_run_config
    from .console import say
    from .corpus import load_corpus
    from .trainer import bits_per_char, evaluate as measure

    model, tokenizer = load(run, choose_device(device))
    about = read_run_config(run)["minigpt"]["text"]
    if texts:
        corpus = load_corpus(texts, data_config, tokenizer, unknown)
        ids, what = corpus.ids, corpus.name
        if corpus.sha256 == about["sha256"]:
            corpus = replace(corpus, config=from_dict(DataConfig, about))
            ids, what = corpus.val, f"the validation part of {corpus.name}, the text it was trained on"
    else:
        corpus = load_corpus(_own_text(run, {"text": about}), from_dict(DataConfig, about), tokenizer, "drop")
        if corpus.sha256 != about["sha256"]:
            raise ValueError(
                f"the text that {run} was trained on ({about['name']}) is not here or has changed; name a text to measure on"
            )
        ids, what = corpus.val, f"the validation part of {corpus.name}"
    for note in corpus.notes:
        say(note)
    if len(ids) < 2:
        raise ValueError(f"{what} has {len(ids)} tokens; at least 2 are needed, one to read and one to predict")
    loss = measure(model, ids)
    bits = bits_per_char(loss, len(ids) / tokenizer.count_characters(ids))
    measures = f"{loss:.4f} nats/token, {bits:.4f} bits/character, perplexity {math.exp(loss):.3f}"
    print(f"{measures}  ({len(ids) - 1:,} tokens of {what})")


@cli.command()
@click.argument("run", type=Path, metavar="RUN")
def info(run: Path) -> None:
    """Tell what RUN is: its architecture, its text, how it was trained and how well it learned."""
    from .card import read_metrics
    from .checkpoint import load, read_run_config
    from .console import architecture
    from .files import printable

    model, _ = load(run)
    about = read_run_config(run)["minigpt"]
    text, train_config = about["text"], about["train"]
    print(f"{run}, made by minigpt {about['version']}\n\n{architecture(model)}\n")
    print(
        f"text      {printable(text['name'])}: {text['characters']:,} characters, {text['tokens']:,} tokens\n"
        f"          SHA-256 {text['sha256']}"
    )
    since = -1  # the step after which it learned from this text
    for before in about.get("earlier", []):
        since = before["until_step"]
        print(f"          up to step {since:,} {printable(before['name'])}: SHA-256 {before['sha256']}")
    print("training  " + ", ".join(f"{name} {value}" for name, value in train_config.items()))
    measured = [m for m in read_metrics(run) if "val_loss" in m and m["step"] > since]
    if measured:
        best = min(measured, key=lambda m: m["val_loss"])
        print(
            f"steps     {measured[-1]['step']:,} of {measured[-1].get('last_step', train_config['max_iters']):,}; "
            f"best val {best['val_loss']:.4f} nats/token at step {best['step']:,}"
        )
        _print_time(measured)


def _print_time(measured: list[dict[str, Any]]) -> None:
    """Where the time of the last session went, and how fast it was, from the metrics of evaluations."""
    from .files import printable

    last = measured[-1]
    parts = last.get("time", {})
    total = sum(parts.values())
    if total:
        shares = ", ".join(f"{printable(name)} {seconds / total:.0%}" for name, seconds in parts.items())
        print(f"time      {total:,.0f} s: {shares}")
    if last.get("tokens_per_s"):
        share = f", {last['peak_share']:.0%} of what this device's arithmetic allows" if last.get("peak_share") else ""
        print(f"speed     {last['tokens_per_s']:,.0f} tokens/s{share}")


@cli.command()
@click.argument("run", type=Path, metavar="RUN")
@click.option("--text", default="", metavar="TEXT", help="what the model reads  [default: what it wrote in training]")
@click.option("--out", metavar="FILE", help="the page  [default: explain.html in RUN]")
@click.option("--json", "as_json", is_flag=True, help="print the figures as JSON instead of making a page")
@click.option("--device", default="auto", metavar="NAME", help=f"{DEVICE}  [default: auto]")
def explain(run: Path, text: str, out: str | None, as_json: bool, device: str) -> None:
    """See inside RUN while it reads TEXT: where each head looks, what surprises it, what each layer would answer.

    \b
    minigpt explain runs/my --text "To be, or not to be"
    minigpt explain runs/my --text "To be, or not to be" --json > inside.json

    Makes a page that opens in any browser, without a network.
    """
    if as_json and out is not None:
        raise click.UsageError("--json prints; leave --out away, or send the output to a file with >")

    from .card import read_samples
    from .checkpoint import load
    from .console import say
    from .explain import explain as look, page
    from .files import write_file

    model, tokenizer = load(run, choose_device(device))
    written = [line["text"] for line in read_samples(run) if line["text"]]
    text = os.fsencode(text).decode("utf-8", "replace") or (written[-1] if written else "")
    explanation = look(model, tokenizer, text)
    for note in explanation.notes:
        say(note)
    if as_json:
        print(json.dumps(explanation.to_dict()))
        return
    path = Path(out) if out else run / "explain.html"
    write_file(path, page(explanation, run.absolute().name))
    say(f"Open {path} in a browser.")


@cli.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE")
@click.option("--name", metavar="NAME", help="the class or variable that is the model  [default: found by itself]")
def check(file: Path, name: str | None) -> None:
    """Test a language model that you wrote yourself, in FILE, and say in plain words what is wrong with it.

    It must obey the contract model(idx, targets) -> logits, loss. Importing FILE runs it, with all that your account may
    do: check only your own code.

    \b
    minigpt check my_gpt.py
    minigpt check my_gpt.py --name MyTransformer
    """
    from .check import check as examine
    from .learner import load_model

    model, vocab_size, block_size = load_model(file, name)
    n_params = sum(p.numel() for p in model.parameters())
    print(f"{type(model).__name__} in {file}: {n_params:,} parameters, vocabulary {vocab_size:,}, context {block_size:,}\n")
    marks = {"ok": "  ok  ", "problem": " WRONG", "note": " note ", "skipped": "   -  "}
    problems = 0
    for finding in examine(model, vocab_size, block_size):
        problems += finding.verdict == "problem"
        print(f"{marks[finding.verdict]}  {finding.name}: {finding.saw}")
        if finding.cause:
            print(f"        {finding.cause}", flush=True)
    print(f"\n{problems} problem{'s' * (problems != 1)} found." if problems else "\nNothing wrong was found.")
    if problems:
        raise SystemExit(1)


@cli.command()
@click.option("--device", default="auto", metavar="NAME", help=f"{DEVICE}  [default: auto]")
@click.option("--json", "as_json", is_flag=True, help="print all of it as JSON")
def doctor(device: str, as_json: bool) -> None:
    """Say what this machine has, and whether its device computes what it should.

    \b
    minigpt doctor
    minigpt doctor --device mps

    Three training steps are taken on the device and, from the same weights with the same batches, on the processor by the
    plainest way. A device that computes wrongly would not say so: its models only learn less. Exit code 1 if it is not to
    be used. `minigpt train` asks the same before it trains on a GPU for the first time.
    """
    import torch

    from .doctor import examine, judge, remember, surroundings

    chosen = torch.device(choose_device(device))
    about = surroundings(chosen)
    if not as_json:
        print("\n".join(f"{name:<10}{value}" for name, value in about.items()), flush=True)
        print("\nThree training steps, beside the same by the plainest way on the processor. How far they are apart:\n")
        print(f"{'model':<10}{'arithmetic':<12}{'loss':>10}{'gradient':>10}  farthest in", flush=True)
    comparisons = []
    for c in examine(chosen):
        comparisons.append(c)
        if not as_json:
            row = c.problem or f"{c.loss:>10.1e}{c.gradient:>10.1e}  {c.where * (c.gradient > 0)}"
            print(f"{c.arch:<10}{c.dtype:<12}{row}", flush=True)
    verdict = judge(comparisons)
    remember(chosen, verdict)
    if as_json:
        print(json.dumps({"about": about, "comparisons": list(map(asdict, comparisons)), "verdict": asdict(verdict)}))
    else:
        print("\n".join(["", f"{chosen}: {ANSWERS[verdict.answer]}", *verdict.reasons]))
    if verdict.answer == "unfit":
        raise SystemExit(1)


@cli.command(context_settings=SETTINGS)
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@click.option("--rung", metavar="NAME", help="one rung only, by name or number")
@click.option("--from", "first", metavar="NAME", help="the first rung to climb")
@click.option("--to", "last", metavar="NAME", help="the last one")
@click.option(
    "--budget", type=int, metavar="N", envvar="MINIGPT_MAX_ITERS", help="steps for each rung or break  [default: 300; 150]"
)
@click.option("--seeds", type=int, metavar="N", help="trainings of each rung, for mean ± standard deviation  [default: 1]")
@click.option(
    "--out", default="runs/ladder", metavar="DIR", help="where runs, picture and figures go  [default: runs/ladder]"
)
@click.option("--diff", nargs=2, metavar="A B", help="show what changed between two rungs")
@click.option("--break", "broken", metavar="PART", help="break a part of the GPT and see the symptom; all = each in turn")
@click.option("--lecture", is_flag=True, help="the steps of the lecture with its recipes, beside the losses it showed")
@click.option("--device", default="cpu", metavar="NAME", help=f"{DEVICE}  [default: cpu]")
def ladder(
    texts: tuple[str, ...],
    rung: str | None,
    first: str | None,
    last: str | None,
    budget: int | None,
    seeds: int | None,
    out: str,
    diff: tuple[str, str] | None,
    broken: str | None,
    lecture: bool,
    device: str,
) -> None:
    """From one character to a GPT: every step trained on the same text with the same budget, and what it gains.

    \b
    python ladder.py                          all rungs, a few minutes; table, ladder.svg, ladder.json
    python ladder.py my.txt --budget 1000     your own text, more steps
    python ladder.py --from head --to residual --seeds 3
    python ladder.py --diff 5 6               two rungs side by side
    python ladder.py --break mask             a GPT with a mistake, and how to recognise it
    python ladder.py --lecture                the losses of the lecture, reproduced

    TEXT is as in `minigpt train`. Each rung is a run of its own: minigpt generate runs/ladder/11-gpt
    """
    from .console import say
    from .corpus import load_corpus
    from .ladder import program
    from .ladder.climb import chosen, find

    device = choose_device(device)
    part = rung or first or last
    with usage():
        for name, value in (("budget", budget), ("seeds", seeds)):
            if value is not None and not 1 <= value <= 10**6:
                raise ValueError(f"{name} is {value}; it must be a whole number from 1 to 1,000,000")
        asked = [name for name, value in (("--diff", diff), ("--break", broken), ("--lecture", lecture)) if value]
        if len(asked) > 1 or (asked and part):
            raise ValueError(
                f"{' and '.join(asked)} cannot go with {'each other' if len(asked) > 1 else '--rung, --from, --to'}"
            )
        if seeds and (diff or broken):
            raise ValueError(f"{asked[0]} trains once; leave --seeds away")
        rungs = [find(name) for name in diff] if diff else chosen(rung, first, last)
        breaks = program.breaks_named(broken) if broken else []
    corpus = load_corpus(texts)
    for note in corpus.notes:
        say(note)
    if diff:
        program.diff(corpus, rungs[0], rungs[1], out, budget, device)
    elif breaks:
        program.break_parts(corpus, breaks, budget, device)
    elif lecture:
        program.lecture(corpus, seeds or 1, budget)
    else:
        program.climb(corpus, rungs, out, budget, seeds or 1, device)


# ---- helpers -----------------------------------------------------------------------------------------------------------


def _own_text(run: Path, about: dict[str, Any]) -> list[str]:
    """Where the text of a run is. Raises ValueError if it is not to be found there."""
    name, paths = about["text"]["name"], about["text"]["paths"]
    for path in paths:
        if path == "-" or not Path(path).exists():
            where = "came from standard input" if path == "-" else f"is not at {path} (seen from this folder)"
            raise ValueError(f"the text that {run} was trained on ({name}) {where}; name it after RUN, or - to pipe it in")
    return paths


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


def _fitting_size(arch: str, given: dict[str, Any]) -> str:
    """A size that these values can be put over: the one that auto might choose on a processor or on a GPU."""
    if arch == "bigram":
        return "auto"  # it has a recipe of its own
    try:
        _configs(arch, "small", given)
    except ValueError as fault:
        try:
            _configs(arch, "lecture", given)
        except ValueError:
            raise fault from None
        return "lecture"
    return "small"


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


def main(arguments: Sequence[str] | None = None) -> None:
    """The program minigpt."""
    run_command(cli, arguments)
