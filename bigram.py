"""Step 1: a bigram. It predicts the next character from this character alone.

    python bigram.py                     learn, write, and keep the model in runs/bigram
    python bigram.py --max-iters 100     a shorter run; --help lists the rest

The text is input.txt beside you, or tiny Shakespeare, or Python's own manual. What it writes has the right letters in
nearly the right pairs and no words: it forgets all but the last character. `diff bigram.py gpt.py` shows what a GPT adds.
"""

import torch

from minigpt import Batches, BigramLanguageModel, Progress, Run, SampleConfig, TrainConfig, load, load_corpus, train, write
from minigpt.checkpoint import free_folder
from minigpt.config import from_dict
from minigpt.console import StopSignals, architecture, farewell
from minigpt.program import program, say, training_device

BLOCK_SIZE = 8  # characters in a window: eight lessons of "after this one comes that one"
HYPERPARAMETERS = {
    "batch_size": 32,  # windows in one step
    "max_iters": 3000,  # steps
    "learning_rate": 1e-2,  # how far a step goes
    "min_lr": 1e-2,  # ... at the end: the same
    "warmup_iters": 0,  # ... at the beginning: the same
    "weight_decay": 0.01,  # the pull of every weight towards zero
    "beta2": 0.999,  # AdamW's memory
    "grad_clip": 0.0,  # no limit to the gradient
}


def main(max_iters: int | None = None, device: str = "auto", out: str = "runs/bigram", seed: int = 1337) -> None:
    """Step 1: train a bigram on input.txt (or the default text), save it in OUT, and let it write."""
    device = training_device(device)
    hyper = HYPERPARAMETERS | {"seed": seed}
    config = from_dict(TrainConfig, hyper | ({} if max_iters is None else {"max_iters": max_iters}))
    torch.manual_seed(seed)

    # Text -> ids: one number for each character. The last tenth is kept for the examination.
    corpus = load_corpus()
    corpus.check(BLOCK_SIZE)
    for line in (*corpus.notes, corpus.describe(), f"Computing on {device}."):
        say(line)
    batches = Batches(corpus.train, config.batch_size, BLOCK_SIZE, seed)  # batches[step] -> idx, targets

    # The model: row i of one table holds the scores of every character that may follow character i.
    model = BigramLanguageModel(corpus.tokenizer.vocab_size, BLOCK_SIZE).to(device)
    print(f"\n{architecture(model)}\n", flush=True)

    # Training: each step reads a batch, measures the surprise (cross-entropy) and corrects the weights a little (AdamW).
    with StopSignals() as stop, Progress(config) as progress:
        run = Run.create(free_folder(out), model, corpus, config)
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
