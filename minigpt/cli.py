"""The command line: minigpt train | generate | eval | info. The only file that parses arguments.

The flags of `train` and `generate` are the fields of the config classes. Nothing heavy is imported before a command runs,
so --help is there at once. A user's mistake ends in a sentence or two and exit code 2 (how it was called) or 1 (the rest).
"""

import difflib
import inspect
import math
import os
import sys
import tomllib
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

import click

from . import __version__
from .config import RECIPES, SIZES, DataConfig, GPTConfig, SampleConfig, TrainConfig, from_dict

DEVICE = "where to compute: auto (the best there is), cpu, cuda, cuda:1, mps"
UNKNOWN = "what to do with a character that the model never saw: error, drop"


# ---- flags from fields -------------------------------------------------------------------------------------------------


def _flags(*configs: type, leave_out: Sequence[str] = (), by_size: bool = False) -> Callable[[Any], Any]:
    """Give a command a flag for each field of the configs. A flag that was not given arrives as None."""

    def add(command: Any) -> Any:
        for config in reversed(configs):
            hints = get_type_hints(config)
            for f in reversed(fields(config)):
                if f.name not in leave_out:
                    _flag(f, hints[f.name], by_size)(command)
        return command

    return add


def _flag(f: Any, hint: Any, by_size: bool) -> Callable[[Any], Any]:
    about, kind = f.metadata, (get_args(hint) or (hint,))[0]
    text = about["help"]
    if about["choices"]:
        text += f": {', '.join(about['choices'])}"
    if by_size and any(f.name in recipe for recipe in RECIPES.values()):
        text += "  [default: by size]"
    elif f.default is not None:
        text += f"  [default: {f.default}]"
    envvar = "MINIGPT_MAX_ITERS" if f.name == "max_iters" else None
    metavar = {int: "N", float: "X", str: "TEXT"}[kind]
    name = f"--{f.name.replace('_', '-')}"
    return click.option(name, type=kind, default=None, metavar=metavar, help=text, envvar=envvar, show_envvar=True)


def _read_toml(context: click.Context, parameter: click.Parameter, path: Path | None) -> dict[str, Any]:
    """The values of a --config file, by parameter name. Raises a usage error for keys that are no flags."""
    if path is None:
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is not valid TOML: {error}") from None
    values = {name.replace("-", "_"): value for name, value in values.items()}
    known = {p.name for p in context.command.params if isinstance(p, click.Option) and p.name} - {"config_file"}
    for name in values.keys() - known:
        close = difflib.get_close_matches(name, known, 1)
        raise click.UsageError(
            f"{path} sets {name!r}, which is no flag of this command.{f' Did you mean {close[0]!r}?' if close else ''}"
        )
    return values


@contextmanager
def _usage():
    """Values that cannot be: the fault is in how the program was called."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from None


# ---- commands ----------------------------------------------------------------------------------------------------------

RECIPE_LINES = [
    f"  {name:<8} " + " ".join(f"{key}={value:g}" for key, value in recipe.items()) for name, recipe in RECIPES.items()
]
SETTINGS: Any = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "max_content_width": 120,
}


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # nobody reads any more, as after `| head`: end quietly
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@click.group(cls=_Commands, context_settings=SETTINGS)
@click.version_option(__version__, "-V", "--version", message="minigpt %(version)s")
def cli() -> None:
    """Train a small GPT on your own text, understand it, and take it anywhere.

    \b
    minigpt train                     learn from tiny Shakespeare, or from ./input.txt
    minigpt train my.txt              learn from your own text (files, folders, - for standard input)
    minigpt generate runs/my          let the model write
    """


@cli.command(epilog="\b\nDefaults by size (a bigram has its own):\n" + "\n".join(RECIPE_LINES))
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@click.option("--out", metavar="DIR", help="the folder of the run  [default: runs/ and the name of the text]")
@click.option(
    "--resume", is_flag=True, default=None, help="go on with the run in --out (or the latest) from its last checkpoint"
)
@click.option("--arch", metavar="NAME", help="architecture: gpt, bigram  [default: gpt]")
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
@_flags(GPTConfig, TrainConfig, DataConfig, leave_out=["vocab_size"], by_size=True)
def train(config_file: dict[str, Any], **flags: Any) -> None:
    """Train a model on TEXT: files, folders (every *.txt in them), or - for standard input.

    Without TEXT: input.txt in this folder, else tiny Shakespeare, else the manual that comes with Python.

    \b
    minigpt train my.txt
    minigpt train my.txt --n-layer 6 --n-embd 192 --max-iters 3000
    minigpt train books/ more.txt --out runs/books --dropout 0.1
    minigpt train --resume --out runs/books

    The model is saved after every evaluation. Ctrl-C stops after the step, saves, and says how to go on.
    """
    given = config_file | {name: value for name, value in flags.items() if value is not None}
    texts = tuple(given.pop("texts", ()))
    resume = given.pop("resume", False)
    if not isinstance(resume, bool):
        raise click.UsageError(f"resume is {resume!r}; it must be true or false")
    if resume:
        _resume(texts, given)
    else:
        _train(texts, given)


def _train(texts: tuple[str, ...], given: dict[str, Any]) -> None:
    arch = one_of("arch", given.get("arch", "gpt"), ("gpt", "bigram"))
    size = one_of("size", given.get("size", "auto"), ("auto", *SIZES))
    out = given.get("out")
    with _usage():  # what no device could accept is refused before torch is loaded
        data_config = from_dict(DataConfig, given)
        _text("out", out)
        if size == "auto" and arch == "gpt":
            _configs(arch, _fitting_size(given), given)
        else:
            _configs(arch, size, given)

    import torch

    from .bigram import BigramLanguageModel, LanguageModel
    from .checkpoint import Run, check_new, free_folder
    from .console import architecture, say
    from .corpus import load_corpus
    from .model import GPT

    device = choose_device(given.get("device", "auto"))
    if size == "auto":
        size = "small" if device == "cpu" else "lecture"
    with _usage():
        gpt_config, train_config = _configs(arch, size, given)
    if out is not None:
        check_new(Path(out))
    corpus = load_corpus(texts, data_config)
    for note in corpus.notes:
        say(note)
    say(corpus.describe())
    corpus.check(gpt_config.block_size)
    torch.manual_seed(train_config.seed)
    vocab_size = corpus.tokenizer.vocab_size
    model: LanguageModel
    if arch == "bigram":
        model = BigramLanguageModel(vocab_size, gpt_config.block_size)
    else:
        gpt_config = from_dict(GPTConfig, vars(gpt_config) | {"vocab_size": vocab_size})
        _check_memory(gpt_config.n_params)
        model = GPT(gpt_config)
    model.to(device)
    say(
        f"\n{architecture(model)}\n\nOn {_device_name(device)}, {train_config.max_iters:,} steps "
        f"of {_tokens(train_config, gpt_config):,} tokens."
    )
    name = _slug(corpus.name) + ("-bigram" if arch == "bigram" else "")
    folder = free_folder(Path("runs") / name) if out is None else Path(out)
    say(f"Run: {folder}\n")
    _follow(lambda: Run.create(folder, model, corpus, train_config), corpus)


def _resume(texts: tuple[str, ...], given: dict[str, Any]) -> None:
    with _usage():
        _text("out", given.get("out"))
    out = Path(given.get("out") or _latest_run())

    from .checkpoint import Run, fitting_tokenizer, read_run_config
    from .console import say
    from .corpus import load_corpus

    config_file = read_run_config(out)
    about = config_file["minigpt"]
    fixed = {
        "arch": "bigram" if config_file["model_type"] == "minigpt-bigram" else "gpt",
        "block_size": config_file.get("n_positions", config_file.get("block_size")),
        "dropout": config_file.get("resid_pdrop"),
        **{name: config_file.get(name) for name in ("n_layer", "n_head", "n_embd")},
        **{name: about["text"][name] for name in ("tokenizer", "encoding", "val_fraction")},
    }
    for name, value in given.items():
        if name in fixed and fixed[name] is None:
            raise click.UsageError(f"{out} holds a bigram, which has no {name}")
        if name in fixed and fixed[name] != value:
            raise click.UsageError(f"{name} is {fixed[name]} in {out} and cannot become {value}; start a new run for that")
    if "size" in given:
        raise click.UsageError("size is for a new run; a run that goes on keeps its own")
    changes = {name: value for name, value in given.items() if name in about["train"]}
    with _usage():
        TrainConfig(**about["train"]).changed(changes)
    device = choose_device(given.get("device", "auto"))

    tokenizer = fitting_tokenizer(out, config_file)
    corpus = load_corpus(texts or _own_text(out, about), from_dict(DataConfig, about["text"]), tokenizer, "drop")
    for note in corpus.notes:
        say(note)
    if corpus.sha256 != about["text"]["sha256"]:
        raise ValueError(
            f"{out} was trained on {about['text']['name']} (SHA-256 {about['text']['sha256'][:12]}), but {corpus.name} "
            f"is another text ({corpus.sha256[:12]}); name the old one, or start a new run"
        )
    for name, value in changes.items():
        if about["train"][name] != value:
            say(f"{name}: {about['train'][name]} -> {value}")
    run, skipped = Run.resume(out, device, texts, **changes)
    for sentence in skipped:
        say(sentence)
    if run.state.step >= run.config.max_iters:
        say(f"{out} is already at step {run.state.step:,} of {run.config.max_iters:,}; give more with --max-iters")
        return
    say(f"Going on with {out} at step {run.state.step:,} of {run.config.max_iters:,}, on {_device_name(device)}.\n")
    _follow(lambda: run, corpus)


def _follow(begin: Callable[[], Any], corpus: Any) -> None:
    """Train a run to its end, showing and keeping what happens. It begins where signals are heeded already."""
    from .batches import Batches
    from .console import Progress, StopSignals, farewell
    from .trainer import train

    with StopSignals() as stop:
        run = begin()
        config = run.config
        batches = Batches(corpus.train, config.batch_size, run.model.block_size, config.seed)
        with Progress(config, corpus.tokens_per_char, run.state.step) as progress:
            for metrics in train(run.model, batches, corpus.val, config, run.state):
                run.record(metrics)
                progress.update(metrics, run.sample)
                if stop.requested:
                    break
    if stop.requested:
        stop.leave(run)
    farewell(run)


@cli.command()
@click.argument("run", type=Path, metavar="RUN")
@click.option(
    "--prompt", default="", metavar="TEXT", help="what the text begins with; nothing = a new line (or the first token)"
)
@click.option("--num-samples", type=int, default=1, metavar="N", help="texts to write  [default: 1]")
@click.option("--stop", multiple=True, metavar="TEXT", help="end a text before this; may be given several times")
@click.option("--unknown", default="error", metavar="WHAT", help=f"{UNKNOWN}  [default: error]")
@click.option("--device", default="auto", metavar="NAME", help=f"{DEVICE}  [default: auto]")
@_flags(SampleConfig)
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
    with _usage():
        config = from_dict(SampleConfig, {name: value for name, value in flags.items() if value is not None})
        if not 1 <= num_samples <= 10**6:
            raise ValueError(f"num_samples is {num_samples}; it must be a whole number from 1 to 1,000,000")
    one_of("unknown", unknown, ("error", "drop"))
    if any(not text for text in stop):
        raise click.UsageError("--stop needs a text, not an empty one")

    from .checkpoint import load
    from .engine import write

    model, tokenizer = load(run, choose_device(device))
    prompt = os.fsencode(prompt).decode("utf-8", "replace")  # whatever the locale
    prompt = tokenizer.decode(tokenizer.encode(prompt, unknown))  # an unknown character is told before anything is written
    stop = tuple(text.replace("\\n", "\n") for text in stop)
    for sample in range(num_samples):
        if sample:
            print("-" * 40)
        print(prompt, end="")
        for piece in write(model, tokenizer, prompt, config, sample, stop):
            print(piece, end="", flush=True)
        print(flush=True)


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

    from .checkpoint import load, read_run_config
    from .console import say
    from .corpus import load_corpus
    from .trainer import bits_per_char, evaluate as measure

    model, tokenizer = load(run, choose_device(device))
    about = read_run_config(run)["minigpt"]["text"]
    if texts:
        corpus = load_corpus(texts, DataConfig(encoding=encoding), tokenizer, unknown)
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
    from .checkpoint import load, read_run_config
    from .console import architecture
    from .files import read_lines

    model, _ = load(run)
    about = read_run_config(run)["minigpt"]
    text, train_config = about["text"], about["train"]
    print(f"{run}, made by minigpt {about['version']}\n\n{architecture(model)}\n")
    print(
        f"text      {text['name']}: {text['characters']:,} characters, {text['tokens']:,} tokens\n"
        f"          SHA-256 {text['sha256']}"
    )
    print("training  " + ", ".join(f"{name} {value}" for name, value in train_config.items()))
    measured = [m for m in read_lines(run / "metrics.jsonl") if "val_loss" in m]
    if measured:
        best = min(measured, key=lambda m: m["val_loss"])
        print(
            f"steps     {measured[-1]['step']:,} of {train_config['max_iters']:,}; "
            f"best val {best['val_loss']:.4f} nats/token at step {best['step']:,}"
        )


# ---- helpers -----------------------------------------------------------------------------------------------------------


def choose_device(name: str) -> str:
    """A device that exists. Raises a usage error naming those that there are."""
    import torch

    from .trainer import best_device

    if name == "auto":
        return best_device()
    there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["mps"] * torch.backends.mps.is_available()
    if name == "cuda" and len(there) > 1 and "cuda:0" in there:
        return name
    if name not in there:
        raise click.UsageError(f"there is no device {name!r} here; there is {', '.join(there)}, and auto takes the best")
    return name


def _own_text(run: Path, about: dict[str, Any]) -> list[str]:
    """Where the text of a run is. Raises ValueError if it is not to be found there."""
    name, paths = about["text"]["name"], about["text"]["paths"]
    for path in paths:
        if path == "-" or not Path(path).exists():
            where = "came from standard input" if path == "-" else f"is not at {path} (seen from this folder)"
            raise ValueError(f"the text that {run} was trained on ({name}) {where}; name it after RUN, or - to pipe it in")
    return paths


def _configs(arch: str, size: str, given: dict[str, Any]) -> tuple[GPTConfig, TrainConfig]:
    """The recipe of a size with the given values over it. What is derived follows what was given."""
    recipe = RECIPES["bigram" if arch == "bigram" else size]
    if arch == "bigram" and (strange := {"n_layer", "n_head", "n_embd", "dropout", "size"} & given.keys()):
        raise ValueError(f"a bigram has no {', '.join(sorted(strange))}; leave it out, or choose --arch gpt")
    if "learning_rate" in given:
        recipe = {name: value for name, value in recipe.items() if name != "min_lr"}
    values = recipe | given
    return from_dict(GPTConfig, values), from_dict(TrainConfig, values)


def _fitting_size(given: dict[str, Any]) -> str:
    """A size that these values can be put over: the one that auto might choose on a processor or on a GPU."""
    try:
        _configs("gpt", "small", given)
    except ValueError as fault:
        try:
            _configs("gpt", "lecture", given)
        except ValueError:
            raise fault from None
        return "lecture"
    return "small"


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """The value, if it is among the allowed ones. Raises a usage error that names them."""
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise click.UsageError(f"{name} is {value!r}; it must be {', '.join(allowed[:-1])} or {allowed[-1]}.{hint}")
    return value


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


# ---- starting and ending -----------------------------------------------------------------------------------------------


def main(command: Any = cli, arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process: 0 done, 1 failed, 2 called wrongly, 130 interrupted."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character must not end a training
    # On Linux, let torch's threads wait for each other 1000 turns, not 300,000: where another program computes too, the ones
    # that wait would take the time of those that are waited for. Read when torch is loaded; docs/decisions.md has figures.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    warnings.showwarning = lambda message, *_, **__: print(f"Warning: {message}", file=sys.stderr)
    try:
        code = command.main(arguments, standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        path = context.command_path if context else (command.name or "minigpt")
        print(f"{path}: {error.format_message()}\nTry '{path} --help'.", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("\nInterrupted.", file=sys.stderr)
        code = 130
    except (ValueError, ArithmeticError, OSError, MemoryError, RuntimeError) as error:
        message = _explain(error)
        if os.environ.get("MINIGPT_DEBUG") or not message:
            raise
        print(f"minigpt: {message}", file=sys.stderr)
        code = 1
    sys.exit(code)


def _explain(error: BaseException) -> str:
    """A mistake or a misfortune in a sentence; nothing for what can only be a fault of this program."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "not enough memory" in str(error):
        return "the memory is not enough for this; make batch_size, n_embd or block_size smaller"
    return "" if isinstance(error, RuntimeError) else str(error)


def program(function: Callable[..., None]) -> None:
    """Run a function as a program whose flags are its parameters: main(max_iters=100) -> --max-iters 100."""
    parameters: list[click.Parameter] = []
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        kind = (get_args(hints[name]) or (hints[name],))[0]
        envvar = "MINIGPT_MAX_ITERS" if name == "max_iters" else None
        flag, default = f"--{name.replace('_', '-')}", parameter.default
        parameters.append(click.Option([flag], type=kind, default=default, envvar=envvar, show_default=True))
    name = Path(sys.argv[0]).name
    main(click.Command(name, callback=function, params=parameters, help=function.__doc__, context_settings=SETTINGS))
