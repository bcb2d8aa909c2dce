"""Step 2: the GPT. It predicts the next character from all that it has read, up to block_size characters back.

    python gpt.py                     learn, write, and keep the model in runs/gpt: small on a processor, large on a GPU
    python gpt.py --size lecture      the lecture's size wherever you are; --help lists the rest

The text is input.txt beside you, or tiny Shakespeare, or Python's own manual. What it writes has words, lines and the
manner of the text: each character looks at those before it. `diff bigram.py gpt.py` shows what a GPT adds.
"""

import torch

from minigpt import GPT, Batches, GPTConfig, Progress, Run, SampleConfig, TrainConfig, load, load_corpus, train, write
from minigpt.checkpoint import free_folder
from minigpt.cli import choose_device, one_of, program
from minigpt.console import StopSignals, architecture, farewell, say

HYPERPARAMETERS = {
    # 0.8 million parameters, some minutes on two processor cores
    "small": dict(
        n_layer=4, n_head=4, n_embd=128, block_size=64, dropout=0.0, batch_size=32, max_iters=1500, learning_rate=2e-3
    ),
    # 10.8 million parameters, some minutes on a GPU
    "lecture": dict(
        n_layer=6,  # blocks, one upon another
        n_head=6,  # attention heads in a block
        n_embd=384,  # numbers that stand for one character
        block_size=256,  # characters it can look back on
        dropout=0.2,  # share of activations set to zero while training
        batch_size=64,  # windows in one step
        max_iters=5000,  # steps
        learning_rate=3e-4,  # how far a step goes
        min_lr=3e-4,  # ... at the end
    ),
}


def main(size: str = "auto", max_iters: int = 0, device: str = "auto", out: str = "runs/gpt", seed: int = 1337) -> None:
    """Step 2: train a GPT on input.txt (or the default text), save it, and let it write. 0 = as in the file."""
    device = choose_device(device)
    if one_of("size", size, ("auto", *HYPERPARAMETERS)) == "auto":
        size = "small" if device == "cpu" else "lecture"
    hyper = HYPERPARAMETERS[size] | ({"max_iters": max_iters} if max_iters else {})
    shape = {name: hyper.pop(name) for name in ("block_size", "n_layer", "n_head", "n_embd", "dropout")}
    block_size = int(shape["block_size"])
    config = TrainConfig(**hyper, seed=seed)
    torch.manual_seed(seed)

    # Text -> ids: one number for each character. The last tenth is kept for the examination.
    corpus = load_corpus()
    corpus.check(block_size)
    for line in (*corpus.notes, corpus.describe()):
        say(line)
    batches = Batches(corpus.train, config.batch_size, block_size, seed)  # batches[step] -> idx, targets

    # The model: token and position embeddings, blocks of attention and feed-forward, a score for every character.
    model = GPT(GPTConfig(corpus.tokenizer.vocab_size, **shape)).to(device)
    print(f"\n{architecture(model)}\n", flush=True)

    # Training: each step reads a batch, measures the surprise (cross-entropy) and corrects the weights a little (AdamW).
    run = Run.create(free_folder(out), model, corpus, config)
    with StopSignals() as stop, Progress(config) as progress:
        for metrics in train(model, batches, corpus.val, config, run.state):
            run.record(metrics)
            progress.update(metrics, run.sample)
            if stop.requested:
                break
    if stop.requested:
        stop.leave(run)

    # Generation: predict a character, draw one, append it, predict again.
    best, tokenizer = load(run.folder, device)
    for text in write(best, tokenizer, "\n", SampleConfig(max_new_tokens=500, seed=seed)):
        print(text, end="", flush=True)
    print()
    farewell(run)


if __name__ == "__main__":
    program(main)
