"""Step 2: the GPT. It predicts the next character from all that it has read, up to block_size characters back.

    python gpt.py                     learn, write, and keep the model in runs/gpt: small; on a CUDA GPU large
    python gpt.py --size lecture      the lecture's size wherever you are; --help lists the rest
    python gpt.py --minutes 5         the best that this machine can train in five minutes

The text is input.txt beside you, or tiny Shakespeare, or Python's own manual. What it writes has words, lines and the
manner of the text: each character looks at those before it. `diff bigram.py gpt.py` shows what a GPT adds.
"""

import torch

from minigpt import GPT, Batches, GPTConfig, Progress, Run, SampleConfig, TrainConfig, load, load_corpus, train, write
from minigpt.checkpoint import free_folder
from minigpt.config import from_dict
from minigpt.console import StopSignals, architecture, farewell
from minigpt.planner import plan
from minigpt.program import compile_first, one_of, program, running_s, say, training_device

HYPERPARAMETERS = {  # of the small GPT; of the lecture's, for a CUDA GPU
    "n_layer": (4, 6),  # blocks, stacked
    "n_head": (4, 6),  # attention heads in a block
    "n_embd": (128, 384),  # numbers that stand for one character
    "block_size": (64, 256),  # characters it can look back on
    "dropout": (0.0, 0.2),  # share of activations set to zero while training
    "batch_size": (12, 64),  # windows in one step
    "max_iters": (3000, 5000),  # steps
    "learning_rate": (2e-3, 3e-4),  # how far a step goes
    "min_lr": (2e-4, 3e-4),  # ... at the end
}
SIZES = ("small", "lecture")


def main(
    size: str = "auto",
    minutes: float = 0.0,
    max_iters: int | None = None,
    device: str = "auto",
    out: str = "runs/gpt",
    seed: int = 1337,
) -> None:
    """Step 2: train a GPT on input.txt (or the default text), save it in OUT, and let it write."""
    if minutes and max_iters is not None:
        raise ValueError("minutes and max_iters both say when to end; leave one of them out")
    device = training_device(device)
    size = one_of("size", size, ("auto", *SIZES))
    column = SIZES.index(size) if size != "auto" else int(device.startswith("cuda"))
    hyper = {name: values[column] for name, values in HYPERPARAMETERS.items()} | {"seed": seed, "minutes": minutes}
    config = from_dict(TrainConfig, hyper | ({} if max_iters is None else {"max_iters": max_iters}))
    torch.manual_seed(seed)

    # Text -> ids: one number for each character. The last tenth is kept for the examination.
    corpus = load_corpus()
    for line in (*corpus.notes, corpus.describe(), f"Computing on {device}."):
        say(line)
    compile_first(device)
    shape = from_dict(GPTConfig, hyper | {"vocab_size": corpus.tokenizer.vocab_size})
    if minutes and size == "auto":  # other numbers than those above: what suits this machine, this text and this time
        best_plan = plan(corpus, minutes, "gpt", device, {"seed": seed}, spent=running_s())
        shape, config = best_plan.shape, best_plan.config
        say(f"\nThe plan for {minutes:g} minutes:\n{best_plan.describe(corpus.tokens_per_char)}")
    corpus.check(shape.block_size)
    batches = Batches(corpus.train, config.batch_size, shape.block_size, seed)  # batches[step] -> idx, targets

    # The model: token and position embeddings, blocks of attention and feed-forward, a score for every character.
    model = GPT(shape).to(device)
    print(f"\n{architecture(model)}\n", flush=True)

    # Training: each step reads a batch, measures the surprise (cross-entropy) and corrects the weights a little (AdamW).
    with StopSignals() as stop, Progress(config) as progress:
        run = Run.create(free_folder(out), model, corpus, config)
        run.state.seconds = running_s() if minutes else 0.0  # the minutes began with the program
        for metrics in train(model, batches, corpus.val, config, run.state):
            run.record(metrics)
            progress.update(metrics, run.sample)
            if stop.requested:
                break
    if stop.requested:
        stop.leave(run)

    # Generation: predict a character, draw one, append it, predict again.
    best, tokenizer = load(run.folder, device)
    for text in write(best, tokenizer, "", SampleConfig(max_new_tokens=500, seed=seed)):
        print(text, end="", flush=True)
    print()
    farewell(run)


if __name__ == "__main__":
    program(main)
