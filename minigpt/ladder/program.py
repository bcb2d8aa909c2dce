"""What `python ladder.py` does: climb, compare two rungs, reproduce the lecture, break a part.

Results go to stdout, notes to stderr. Ctrl-C ends after the step and keeps what is there.
"""

import json
import math
import shutil
import statistics
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

from ..checkpoint import free_folder
from ..console import StopSignals, excerpt
from ..corpus import Corpus
from ..files import write_file
from ..model import GPT
from ..program import say
from ..rungs import Rung
from .breaks import BREAKS, FIGURES, INTACT, STEPS as BREAK_STEPS, Break, Patient, read, trained
from .climb import BLOCK_SIZE, STEPS, Result, attempt, averaged, measured, read_report, report, result, shape
from .compare import compare
from .counting import baselines
from .lecture import STEPS as LECTURE, reproduce
from .picture import picture
from .table import Table, seed_note


def climb(
    corpus: Corpus, rungs: Sequence[Rung], out: str, steps: int | None = None, seeds: int = 1, device: str = "cpu"
) -> list[Result]:
    """Train rungs on a text, showing each as it stands; leave the runs, ladder.json and ladder.svg in a folder."""
    corpus.check(BLOCK_SIZE)
    folder, steps = free_folder(out), steps or STEPS
    say(f"{corpus.describe()}\n{len(rungs)} rungs, {steps:,} steps each. Runs go to {folder}/\n")
    started, results = time.perf_counter(), []
    with StopSignals() as stop, Table(corpus.tokens_per_char) as table:
        floor = baselines(corpus)
        for b in floor:
            table.baseline(b)
        below = next(b.loss for b in floor if b.name == "unigram") if rungs[0].number == 1 else None
        for rung in rungs:
            attempts = []
            for i in range(seeds):
                name = f"{rung.number:02}-{rung.name}" + (f"-seed-{i + 1}" if i else "")
                for metrics, done in measured(attempt(rung, corpus, folder / name, steps, 1337 + i, device)):
                    table.progress(rung.number, rung.name, seed_note(i, seeds), metrics, steps)
                    if done:
                        attempts.append(done)
                    elif stop.requested:
                        break
                if stop.requested:
                    break
            if len(attempts) < seeds:
                break
            results.append(result(rung, corpus, attempts, below))
            below = results[-1].val_loss
            table.row(results[-1])
            write_file(folder / "ladder.json", json.dumps(report(corpus, steps, floor, results), indent=1))
    if results:
        write_file(folder / "ladder.svg", picture(results, floor, corpus.name, steps))
        best = min(results, key=lambda r: r.val_loss)
        pair = max(2, best.number)
        if any(r.val_loss > r.train_loss + 0.5 for r in results):
            say("\nWhere val lies far above train, a rung has learned the text by heart: fewer steps (--budget) help.")
        say(
            f"\n{time.perf_counter() - started:.0f} s. "
            f"The picture: {folder / 'ladder.svg'}   the figures: {folder / 'ladder.json'}\n"
            f"Try next: minigpt generate {best.attempts[0].run}   python ladder.py --diff {pair - 1} {pair}"
        )
    if stop.requested:
        say(f"Stopped after {len(results)} of {len(rungs)} rungs.")
        raise SystemExit(128 + stop.requested)
    return results


def diff(corpus: Corpus, a: Rung, b: Rung, out: str, steps: int | None = None, device: str = "cpu") -> None:
    """Print two rungs side by side, with the losses of the climb in a folder. If that was one of another text or budget, or
    had not both, they are trained.
    """
    results = read_report(Path(out) / "ladder.json", corpus.sha256, steps)
    if not {a.name, b.name} <= results.keys():
        both = {rung.name: rung for rung in (a, b)}
        say(f"{' and '.join(both)} not climbed yet with this text and budget; training now.")
        results = {r.name: r for r in climb(corpus, list(both.values()), f"{out}-diff", steps, device=device)}
        print()
    shapes = [shape(rung, corpus.tokenizer.vocab_size) for rung in (a, b)]
    print(compare(a, b, shapes, results, shutil.get_terminal_size((120, 24)).columns))


def lecture(corpus: Corpus, seeds: int = 1, steps: int | None = None) -> list[dict]:
    """Train the steps of the lecture and print its losses beside ours, with the lecture's scale and the right one."""
    corpus.check(8)
    say(f"{corpus.describe()}\n{len(LECTURE)} steps of the lecture, {seeds} seed{'s' * (seeds > 1)} each.\n")
    print(f"{'step of the lecture':<27} {'at':>5} {'published':>9} {'ours':>17} {'off by':>7} {'right scale':>17}")
    rows = []
    with StopSignals() as stop:
        for step in LECTURE:
            losses: dict[bool, dict[int, list[float]]] = {True: {}, False: {}}
            for wrong_scale in (True, False) if step.two_scales else (True,):
                for seed in range(1, seeds + 1):
                    for metrics in reproduce(step, corpus, seed, wrong_scale, steps):
                        if metrics.val_loss is not None:
                            losses[wrong_scale].setdefault(metrics.step, []).append(metrics.val_loss)
                        if stop.requested:
                            raise SystemExit(128 + stop.requested)
            for at, published in step.published.items():
                at = min(at + (at == 4999), steps or 5000)  # the lecture counts from 0; its last evaluation is ours at 5000
                ours, right = losses[True][at], losses[False].get(at, [])
                off = statistics.fmean(ours) - published
                rows.append(dict(step=step.name, at=at, published=published, ours=ours, right=right, within=step.tolerance))
                print(
                    f"{step.name:<27} {at:>5} {published:>9.4f} {spread(ours):>17} {off:>+7.4f} "
                    f"{spread(right) if right else 'the same':>17}",
                    flush=True,
                )
    return rows


def spread(values: Sequence[float]) -> str:
    """[1.0, 1.2] -> "1.1000 ± 0.1414"."""
    return f"{statistics.fmean(values):.4f}" + (f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else "")


def break_parts(
    corpus: Corpus, breaks: Sequence[Break], steps: int | None = None, device: str = "cpu", sizes: dict | None = None
) -> list[tuple[Break, Patient, Patient]]:
    """Train the GPT intact and with each break, and print what gives the mistake away -> (break, intact, broken), ..."""
    corpus.check(BLOCK_SIZE)
    seen = []
    with StopSignals() as stop:

        def treat(brk: Break) -> tuple[Patient, GPT]:
            for patient, model in trained(brk, corpus, steps or BREAK_STEPS, device, sizes):
                if stop.requested:
                    raise SystemExit(128 + stop.requested)
                treated = patient, model
            return treated

        say(f"{corpus.describe()}\nFirst the intact GPT, {steps or BREAK_STEPS:,} steps.\n")
        intact, reader = treat(INTACT)
        read(intact, reader, reader, corpus)
        for brk in breaks:
            print(f"{brk.name}: {brk.mistake}\n", flush=True)
            broken, model = treat(brk)
            read(broken, model, reader, corpus)
            print(diagnosis(brk, intact, broken), flush=True)
            seen.append((brk, intact, broken))
    return seen


def diagnosis(brk: Break, intact: Patient, broken: Patient) -> str:
    """The figures of both, their loss curves, what they write, and how to recognise the mistake."""
    lines = [f"  {'':<34} {'intact':>9} {'broken':>9}"]
    for name in brk.figures:
        lines.append(f"  {FIGURES[name]:<34} {getattr(intact, name):>9.4g} {getattr(broken, name):>9.4g}")
    high = max(intact.curve[0], *(min(v, 2 * intact.curve[0]) for v in broken.curve or [0]))
    for name, patient in (("intact", intact), ("broken", broken)):
        lines.append(f"  train loss, {name}  {sparkline(averaged(patient.curve, 48), 0.0, high)}")
    for name, patient in (("intact", intact), ("broken", broken)):
        lines.append(f"  writes, {name}      {excerpt(patient.text, 60, sys.stdout) or '(nothing)'}")
    if broken.stopped:
        lines.append(f"  training ended early: {broken.stopped}")
    shows = brk.symptom(intact, broken)
    verdict = "" if shows else "\n  At this budget the symptom does not show; give more steps with --budget."
    advice = textwrap.fill(brk.recognise, 96, initial_indent="  ", subsequent_indent="  ")
    return "\n".join(lines) + f"\n\n{advice}{verdict}\n"


def sparkline(values: Sequence[float], low: float, high: float) -> str:
    """A curve in one line of text, "▁" at low and "█" at high or above; nothing where there is no number."""
    signs = "▁▂▃▄▅▆▇█"
    place = lambda v: min(7, max(0, int((v - low) / (high - low or 1) * 8)))  # noqa: E731
    return "".join(signs[place(v)] if math.isfinite(v) else " " for v in values)


def breaks_named(name: str) -> list[Break]:
    """The breaks that a person asks for. Raises ValueError naming them all."""
    if name == "all":
        return list(BREAKS.values())
    if name not in BREAKS:
        raise ValueError(f"there is no part {name!r} to break; there is {', '.join(BREAKS)}, or all")
    return [BREAKS[name]]
