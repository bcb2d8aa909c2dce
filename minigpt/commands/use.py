"""minigpt generate, chat, novelty, eval, info: what a run can do, and what it is.

Next: learn.py
"""

import json
import math
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..config import DataConfig, Faults, SampleConfig, from_dict
from ..program import DEVICE, choose_device, flags, one_of, say, usage
from ..saved import read_run_config, text_paths

UNKNOWN = "what to do with a character that the model never saw: error, drop"


@click.command()
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

    from ..checkpoint import load
    from ..files import without_controls
    from ..writing import write

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


@click.command()
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

    from ..chat import Chat
    from ..checkpoint import load
    from ..files import without_controls

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


@click.command()
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

    from ..checkpoint import load
    from ..corpus import load_corpus
    from ..novelty import novelty as compare
    from ..writing import write

    model, tokenizer = load(run, choose_device(device))
    about = read_run_config(run)["minigpt"]["text"]
    corpus = load_corpus(text_paths(run, {"text": about}), from_dict(DataConfig, about), tokenizer, "drop")
    if corpus.sha256 != about["sha256"]:
        raise ValueError(f"the text that {run} was trained on ({about['name']}) is not here or has changed")
    samples = ["".join(write(model, tokenizer, "", config, sample)) for sample in range(num_samples)]
    found = compare(samples, tokenizer.decode(corpus.train), tokenizer.decode(corpus.val))
    print(json.dumps(found.to_dict()) if as_json else found.describe())


@click.command(name="eval")
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

    from ..checkpoint import load
    from ..corpus import load_corpus
    from ..trainer import bits_per_char, evaluate as measure

    model, tokenizer = load(run, choose_device(device))
    about = read_run_config(run)["minigpt"]["text"]
    if texts:
        corpus = load_corpus(texts, data_config, tokenizer, unknown)
        ids, what = corpus.ids, corpus.name
        if corpus.sha256 == about["sha256"]:
            corpus = replace(corpus, config=from_dict(DataConfig, about))
            ids, what = corpus.val, f"the validation part of {corpus.name}, the text it was trained on"
    else:
        corpus = load_corpus(text_paths(run, {"text": about}), from_dict(DataConfig, about), tokenizer, "drop")
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


@click.command()
@click.argument("run", type=Path, metavar="RUN")
def info(run: Path) -> None:
    """Tell what RUN is: its architecture, its text, how it was trained and how well it learned."""
    from ..card import read_metrics
    from ..checkpoint import load
    from ..console import architecture
    from ..files import printable

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
    from ..files import printable

    last = measured[-1]
    parts = last.get("time", {})
    total = sum(parts.values())
    if total:
        shares = ", ".join(f"{printable(name)} {seconds / total:.0%}" for name, seconds in parts.items())
        print(f"time      {total:,.0f} s: {shares}")
    if last.get("tokens_per_s"):
        share = f", {last['peak_share']:.0%} of what this device's arithmetic allows" if last.get("peak_share") else ""
        print(f"speed     {last['tokens_per_s']:,.0f} tokens/s{share}")
