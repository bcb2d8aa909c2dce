"""minigpt explain, check, doctor, ladder: how a model works, and whether it does."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import click

from ..program import DEVICE, SETTINGS, choose_device, say, usage

ANSWERS = {"fit": "fit for training.", "limited": "fit, with these limits.", "unfit": "do not use it for training."}


@click.command()
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

    from ..card import read_samples
    from ..checkpoint import load
    from ..explain import explain as look, page
    from ..files import write_file

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


@click.command()
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
    from ..check import check as examine
    from ..learner import load_model

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


@click.command()
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

    from ..doctor import examine, judge, remember, surroundings

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


@click.command(context_settings=SETTINGS)
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
    from ..corpus import load_corpus
    from ..ladder import program
    from ..ladder.climb import chosen, find

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
