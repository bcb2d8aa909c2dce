"""minigpt eval, info: how well a run predicts, and what it is.

Next: learn.py
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from ..config import DataConfig, from_dict
from ..program import DEVICE, UNKNOWN, choose_device, one_of, or_drop, say, usage


@click.command(name="eval")
@click.argument("run", type=Path, metavar="RUN")
@click.argument("texts", nargs=-1, metavar="[TEXT ...]")
@click.option("--encoding", metavar="NAME", help="how the files of TEXT are encoded  [default: utf-8]")
@click.option("--unknown", metavar="WHAT", help=f"{UNKNOWN}  [default: error]")
@click.option("--device", default="auto", metavar="NAME", help=f"{DEVICE}  [default: auto]")
def evaluate(run: Path, texts: tuple[str, ...], encoding: str | None, unknown: str | None, device: str) -> None:
    """Measure how well the best model of RUN predicts TEXT, or the validation part of the text it was trained on.

    \b
    minigpt eval runs/my
    minigpt eval runs/my another.txt
    """
    one_of("unknown", unknown or "error", ("error", "drop"))
    if not texts and (encoding or unknown):
        raise click.UsageError("--encoding and --unknown are for TEXT, and no TEXT is named")
    with usage():
        data_config = DataConfig(encoding=encoding or "utf-8")

    from ..checkpoint import load
    from ..corpus import load_corpus
    from ..saved import read_run_config, text_paths
    from ..trainer import bits_per_char, evaluate as measure

    model, tokenizer = load(run, choose_device(device))
    about = read_run_config(run)["minigpt"]["text"]
    if texts:
        with or_drop():
            corpus = load_corpus(texts, data_config, tokenizer, unknown or "error")
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
    if not math.isfinite(loss):
        raise ValueError(f"the loss is {loss}: the weights of {run} are damaged")
    bits = bits_per_char(loss, len(ids) / tokenizer.count_characters(ids))
    measures = (
        f"{loss:.4f} nats/token, {bits:.4f} bits/character, perplexity {math.exp(loss) if loss < 700 else math.inf:.3f}"
    )
    print(f"{measures}  ({len(ids) - 1:,} tokens of {what})")


@click.command()
@click.argument("run", type=Path, metavar="RUN")
def info(run: Path) -> None:
    """Tell what RUN is: its architecture, its text, how it was trained and how well it learned."""
    from ..card import read_metrics
    from ..checkpoint import load
    from ..console import architecture
    from ..files import printable
    from ..saved import read_run_config

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
