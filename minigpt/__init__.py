"""Mini GPT: a language model built step by step.

Read the files in this order; each imports only files above it.

    config      every number a person can choose, and its range
    hf          the same models in transformers' terms
    files       files that are never half written, and doubt about what is read
    lock        one owner at a time
    signals     Ctrl-C and SIGTERM: what is given up at once, and how a program ends then
    cores       how many processors this process may use
    tokenizer   text <-> ids: characters or bytes
    saved       a run that is opened, with doubt and without torch
    corpus      where text comes from -> one checked array of ids, split in train and val
    batches     ids -> (idx, targets); batch number `step` is a pure function of (seed, step)
    bigram      BigramLanguageModel: a table of next-token scores
    attention   who looks at whom: attention_weights, Head, MultiHeadAttention
    block       FeedForward; Block = communicate, then compute
    model       GPT, with GPT-2's exact details
    modern      ModernGPT: rotary positions, RMSNorm, QK-norm, SwiGLU; Qwen3's exact details
    rungs       every step from the bigram to the modern GPT, one idea each
    sampling    logits -> one id: penalty, temperature, top-k, top-p, min-p
    recording   what a GPU is told once, and then repeats
    torch_engine  a model of torch that reads on: the cache
    numpy_engine  the same forward pass in plain NumPy, told a second time
    native_engine  the third telling, in C, for speed
    engine      generate() -> yields ids; how a GPT writes
    writing     from tokens to text, up to whatever ends it
    optim       AdamW, Muon and the learning-rate schedule
    fused       what torch does in many passes over the memory, in one, in C
    speed       the same arithmetic in less time, on processors
    compiling   torch.compile, and a folder for its libraries that survives a kill
    machine     what this machine can do, and what a model asks of it
    clock       where the time of a training goes, and how many steps still fit into it
    gradient    what a batch says about each weight: forward, backward, in parts that fit
    trainer     evaluate(), train() -> yields Metrics
    watch       what an experienced eye sees in the figures of a training, in words
    planner     the best model that this machine can train in the time there is
    card        the model card: what a run says of itself to a stranger
    checkpoint  the run directory: save, load, resume
    opening     a run, opened to write: by the engine that suits it
    novelty     how much of what a model writes stands in its training text
    chat        a text that two hands write in turn
    explain     attention maps, logit lens, surprise of each character, through hooks
    learner     a learner's own file, and the model in it
    check       fourteen questions to a model, and the likely cause where one fails
    profile     where the time of a step goes, operation by operation
    doctor      does this device compute what it should?
    program     how a program begins and ends: flags, mistakes in plain words, exit codes
    console     what a person sees: the architecture, progress, the end
    cli         minigpt train | plan | generate | chat | novelty | eval | info | explain | check | doctor | ladder

    commands/   what a person can ask for: train, write, measure, learn; only cli imports them
    ladder/     the rungs trained, measured, compared and broken; nothing above imports it
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Public name -> the file it lives in. Loaded on first use, so that `import minigpt` and `minigpt --help` need no torch.
_PUBLIC = {
    "GPTConfig": "config",
    "TrainConfig": "config",
    "DataConfig": "config",
    "SampleConfig": "config",
    "SIZES": "config",
    "CharTokenizer": "tokenizer",
    "ByteTokenizer": "tokenizer",
    "Corpus": "corpus",
    "load_corpus": "corpus",
    "Batches": "batches",
    "BigramLanguageModel": "bigram",
    "attention_weights": "attention",
    "Head": "attention",
    "MultiHeadAttention": "attention",
    "FeedForward": "block",
    "Block": "block",
    "GPT": "model",
    "ModernGPT": "modern",
    "RUNGS": "rungs",
    "generate": "engine",
    "write": "writing",
    "Metrics": "trainer",
    "TrainState": "trainer",
    "best_device": "trainer",
    "evaluate": "trainer",
    "train": "trainer",
    "Run": "checkpoint",
    "load": "checkpoint",
    "Progress": "console",
}
__all__ = sorted([*_PUBLIC, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(f".{_PUBLIC[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
