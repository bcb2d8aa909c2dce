"""What a GPU makes of it: python benchmarks/gpu.py [--nanogpt PATH] [--seeds 5] [--parts training writing]

Training: how long until a model is as good as nanoGPT's GPU example (1.4697 on tiny Shakespeare at a context of 256)? The
recipe was fixed beforehand: with seeds 1 and 2, on an H200, 480 steps gave 1.475 and 560 1.454. Writing: tokens a second of
one text and of 32, on the weights of benchmarks/generation.py; with steps that are recorded and repeated, and told one by
one. PATH is a clone of nanoGPT, which then trains with its own flags, compiled, and writes; transformers writes if it is
installed.

Writes sections of docs/results.md. Nothing else should be computing on the GPU meanwhile.
"""

import argparse
import importlib.util
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from generation import NEW, PROMPT, SIZES, TEXTS, NanoGPT, Ours, Transformers, make_run, weights_of
from machine import describe, publish, shakespeare, table
from race import LONG_TARGET, last_loss, mean_spread, nanogpt

from minigpt import evaluate, load, load_corpus, torch_engine
from minigpt.files import read_lines
from minigpt.machine import wait_for

NANOGPT = "config/train_shakespeare_char.py --eval_iters=200 --log_interval=10 --max_iters=2000"
SHAPE = "--n-layer 6 --n-head 8 --n-embd 256 --block-size 256"
RECIPE = f"--size small {SHAPE} --batch-size 14 --max-iters 540 --eval-interval 270"
TURNS = 3


def training(device: str, seeds: int, clone: Path | None) -> str:
    """A table: losses and seconds."""
    text, rows = shakespeare(), []
    results = [ours(text, seed, device) for seed in range(301, 301 + seeds)]
    losses = [loss for loss, *_ in results]
    verdict = f"The mean is {'at or below' if statistics.mean(losses) <= LONG_TARGET else 'ABOVE'} {LONG_TARGET}."
    seconds = [f"{statistics.median(some):.1f} s" for some in list(zip(*results, strict=True))[1:]]
    rows.append([f"`minigpt train {RECIPE}`", mean_spread(losses), *seconds])
    if clone:
        printed, took = nanogpt(clone, text, f"{NANOGPT} --device={device}")
        step_s = statistics.median(float(ms) / 1000 for ms in re.findall(r"time (\d+\.\d+)ms", printed)[2:])
        rows.append(
            [
                "nanoGPT, its flags for a GPU, compiled, 2000 steps",
                f"{last_loss(printed):.4f}",
                f"{2000 * step_s:.1f} s",
                "",
                f"{took:.1f} s",
            ]
        )
    heads = ["what", "validation loss", "steps alone", "with evaluations, samples, saving, recording", "whole process"]
    return f"{verdict}\n\n{table(heads, rows)}"


def ours(text: str, seed: int, device: str) -> tuple[float, float, float, float]:
    """The loss of the saved model on the whole validation part; seconds of the steps, of the training, of the process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "minigpt", "train", text, *RECIPE.split(), "--device", device]
        started = time.perf_counter()
        subprocess.run([*command, "--seed", str(seed), "--out", f"{folder}/run"], check=True, capture_output=True)
        seconds = time.perf_counter() - started
        last = read_lines(Path(folder, "run/metrics.jsonl"))[-1]
        model, tokenizer = load(f"{folder}/run")
        loss = evaluate(model.to(device), load_corpus([text], tokenizer=tokenizer).val)
        steps = sum(last["time"][part] for part in ("data", "model", "optimizer"))
        print(seed, loss, steps, last["seconds"], seconds, flush=True)
        return loss, steps, last["seconds"], seconds


def writing(device: str, sizes: list[str], clone: Path | None) -> str:
    """A table: tokens a second."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in sizes:
            run = make_run(size, Path(folder))
            bound = bandwidth(torch.device(device)) / (4 * weights_of(run))
            for name, one, many in sides(run, device, clone):
                figures = [rate(write, device) if write else 0.0 for write in (one, many)]
                rows.append(
                    [SIZES[size]["name"], name, *(f"{figure:,.0f}" if figure else "" for figure in figures), f"{bound:,.0f}"]
                )
                print(*rows[-1], flush=True)
    return table(["model", "who", "tokens/s", f"{TEXTS} texts at once", "bound of one"], rows)


def sides(run: Path, device: str, clone: Path | None):
    """Who writes: a name, a function that writes one text, one that writes many or none; each gives the tokens it wrote."""
    prompt, many = [i % 60 for i in range(PROMPT)], [[1]] * TEXTS
    for name, fixed in (("ours, recorded", True), ("ours, not recorded", False)):
        torch_engine.can_record = lambda device, fixed=fixed: fixed and device.type == "cuda"
        side: Any = Ours(run, "torch", torch.get_num_threads())
        side.model.to(device)
        yield name, *writers(side, prompt, many)
    torch.set_default_device(device)  # peers put their ids where torch does
    peers: dict[str, Callable[[], Any]] = {}
    if importlib.util.find_spec("transformers"):
        peers["transformers"] = lambda: Transformers(run, "transformers", torch.get_num_threads())
    if clone:
        peers["nanoGPT"] = lambda: NanoGPT(run, "nanogpt", torch.get_num_threads(), clone)
    for name, make in peers.items():
        side = make()
        side.model.to(device)
        yield name, *writers(side, prompt, many)
    torch.set_default_device(None)


def writers(side: Any, prompt: list[int], many: list[list[int]]) -> list[Callable[[], int] | None]:
    def one() -> int:
        side.write(prompt, NEW)
        return NEW

    def several() -> int:
        side.write_many(many, NEW)
        return NEW * len(many)

    return [one, several if hasattr(side, "write_many") else None]


def rate(write: Callable[[], int], device: str) -> float:
    """tokens/s: the median of some turns, after one that is not counted."""
    write()
    rates = []
    for _ in range(TURNS):
        started = time.perf_counter()
        tokens = write()
        wait_for(torch.device(device))
        rates.append(tokens / (time.perf_counter() - started))
    return statistics.median(rates)


def bandwidth(device: torch.device) -> float:
    """Bytes/s at which the device sums up a gigabyte: the best of five."""
    numbers, seconds = torch.ones(2**28, device=device), []
    for _ in range(6):
        started = time.perf_counter()
        numbers.sum()
        wait_for(device)
        seconds.append(time.perf_counter() - started)
    return 4 * numbers.numel() / min(seconds[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, metavar="PATH")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--parts", nargs="+", choices=("training", "writing"), default=["training", "writing"])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--device", default="cuda", help="another one for a trial: then nothing is kept  [default: cuda]")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("there is no GPU of NVIDIA here")
    about = f"Made by `python benchmarks/gpu.py --nanogpt PATH`.\n\n{describe(nanogpt=asked.nanogpt)}."
    if "training" in asked.parts:
        trained = training(asked.device, asked.seeds, asked.nanogpt)
        print(trained)
        if asked.device == "cuda":
            publish(
                "Training on a GPU",
                f"""{about}

Tiny Shakespeare, context 256: the loss of the saved model on the whole validation part, mean ± standard deviation over
{asked.seeds} fresh seeds, and seconds (medians). nanoGPT's loss is the mean over 200 batches, as its flags have it, and its
steps alone are 2000 times the median of those it tells. {trained}""",
            )
    if "writing" in asked.parts:
        written = writing(asked.device, asked.sizes, asked.nanogpt)
        print(written)
        if asked.device == "cuda" and asked.sizes == list(SIZES):
            publish(
                "Writing on a GPU",
                f"""{about}

{NEW} tokens after a prompt of {PROMPT} (many texts: of one token), float32, the median of {TURNS}. One text is greedy; of
many, ours are drawn by chance, each for itself on the processor, and those of transformers greedy. The bound: a token cannot
be written faster than its weights are read.

{written}""",
            )


if __name__ == "__main__":
    main()
