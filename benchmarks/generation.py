"""Writing beside nanoGPT, transformers and llama.cpp: python benchmarks/generation.py --nanogpt PATH [--rounds 3]

PATH is a clone of nanoGPT; transformers, gguf and xllamacpp (llama.cpp in a wheel) are used if they are installed. Writes
benchmarks/generation.md. Nothing else should be computing meanwhile; --sizes and --sides run parts of it and write nothing.

For each size a run is made by a few steps of training, and all sides open its weights: a GPT-2, which every peer knows. Each
lives in a process of its own and they take turns. Before anything is timed, each has to write what the plain forward pass
of torch writes, token by token (with weights of 8 bits: to give the likeliest next tokens nearly the same probabilities).
"""

import argparse
import contextlib
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

# What is imported where it is needed: the memory of a process that needs no torch shall be its own.

NEW, PROMPT, TEXTS = 256, 32, 32  # tokens that are written, tokens that are read before, texts at once
# The shape of a model; steps of training; tokens of the check, and of a turn of many texts.
SIZES: dict[str, dict[str, Any]] = {
    "small": dict(name="0.80 M", n_layer=4, n_head=4, n_embd=128, block_size=320, steps=300, many=64),
    "large": dict(name="10.7 M", n_layer=6, n_head=6, n_embd=384, block_size=320, steps=10, many=32),
    "gpt2": dict(name="124 M", n_layer=12, n_head=12, n_embd=768, block_size=1024, steps=1, many=16),
}
SIDES = {
    "native": "ours, C, float32",
    "native-int8": "ours, C, int8",
    "numpy": "ours, NumPy",
    "torch": "ours, torch",
    "nanogpt": "nanoGPT",
    "transformers": "transformers, with its cache",
    "llama": "llama.cpp, F32",
    "llama-int8": "llama.cpp, Q8_0",
}
LLAMA_NAMES = {  # transformers' names -> llama.cpp's
    "wte": "token_embd", "wpe": "position_embd", "ln_f": "output_norm", "ln_1": "attn_norm", "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down",
}  # fmt: skip
VOCABULARY = 50257  # of GPT-2
NEAR = 0.05  # nats that weights of 8 bits may move the likeliest tokens by


# ---- the sides: each opens a run and answers ----------------------------------------------------------------------------


class Ours:
    """Our engines, opened as minigpt generate opens them; the one in C chooses its threads by itself."""

    def __init__(self, run: Path, who: str, threads: int) -> None:
        if who == "torch":
            import torch

            from minigpt.checkpoint import load

            torch.set_num_threads(threads)
            self.model: Any
            self.model, self.tokenizer = load(run)
            return
        from minigpt.opening import open_run

        engine, _, dtype = who.partition("-")
        self.model, self.tokenizer, _ = open_run(run, engine, dtype=dtype or "float32")

    def write(self, prompt: list[int], length: int) -> list[int]:
        from minigpt.config import SampleConfig
        from minigpt.engine import generate

        return list(generate(self.model, prompt, SampleConfig(max_new_tokens=length, temperature=0)))

    def write_many(self, prompts: list[list[int]], length: int) -> None:
        from minigpt.config import SampleConfig
        from minigpt.writing import Text, write_many

        texts = [Text(self.tokenizer) for _ in prompts]
        write_many(self.model, prompts[0], SampleConfig(max_new_tokens=length), texts)  # drawn, each for itself

    def likeliest(self, prompt: list[int]) -> dict[int, float]:
        """The logarithms of the probabilities of the five likeliest next tokens."""
        from minigpt.engine import reader_of

        scores = reader_of(self.model).read(prompt).astype(np.float64)
        logprobs = scores - scores.max() - np.log(np.exp(scores - scores.max()).sum())
        return {int(i): float(logprobs[i]) for i in np.argsort(-scores)[:5]}


class NanoGPT:
    """nanoGPT's model and its `generate`, which has no cache; greedy is its top_k of 1."""

    def __init__(self, run: Path, who: str, threads: int, path: Path) -> None:
        import torch

        from minigpt.checkpoint import load

        torch.set_num_threads(threads)
        spec = importlib.util.spec_from_file_location("nanogpt_model", path / "model.py")
        assert spec is not None
        assert spec.loader is not None
        nanogpt = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(nanogpt)
        ours: Any = load(run)[0]
        c = ours.config
        shape = dict(n_layer=c.n_layer, n_head=c.n_head, n_embd=c.n_embd, vocab_size=c.vocab_size, block_size=c.block_size)
        self.torch, self.model = torch, nanogpt.GPT(nanogpt.GPTConfig(dropout=0.0, bias=True, **shape)).eval()
        theirs = self.model.state_dict()
        for name, tensor in ours.to_hf()[1].items():
            linear = name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight"))
            theirs[name].copy_(tensor.T if linear else tensor)

    def write(self, prompt: list[int], length: int) -> list[int]:
        return self.model.generate(self.torch.tensor([prompt]), length, top_k=1)[0, len(prompt) :].tolist()


class Transformers:
    """GPT2LMHeadModel.generate with the cache that it uses by itself."""

    def __init__(self, run: Path, who: str, threads: int) -> None:
        import torch
        import transformers

        torch.set_num_threads(threads)
        transformers.logging.set_verbosity_error()
        self.torch, self.model = torch, transformers.GPT2LMHeadModel.from_pretrained(run).eval()
        self.model.generation_config = transformers.GenerationConfig()

    def _write(self, prompts: list[list[int]], length: int) -> Any:
        ids = self.torch.tensor(prompts)
        settings = dict(max_new_tokens=length, min_new_tokens=length, do_sample=False, pad_token_id=0)
        with self.torch.inference_mode():
            return self.model.generate(ids, attention_mask=self.torch.ones_like(ids), **settings)

    def write(self, prompt: list[int], length: int) -> list[int]:
        return self._write([prompt], length)[0, len(prompt) :].tolist()

    def write_many(self, prompts: list[list[int]], length: int) -> None:
        self._write(prompts, length)


class LlamaCpp:
    """llama.cpp in the wheel xllamacpp, called without a network; its model file is written by gguf."""

    def __init__(self, run: Path, who: str, threads: int) -> None:
        import xllamacpp  # type: ignore[import-untyped]

        file = run / f"{who}.gguf"
        if not file.exists():
            write_gguf(run, file, who == "llama-int8")
        context = json.loads((run / "config.json").read_text())["n_positions"]
        p = xllamacpp.CommonParams()
        p.model.path, p.n_ctx, p.n_parallel, p.warmup, p.verbosity, p.fit_params = str(file), context, 1, False, -1, False
        p.cpuparams.n_threads = p.cpuparams_batch.n_threads = threads
        p.hostnames, p.port = ["127.0.0.1"], 0
        self.server = xllamacpp.Server(p)

    def _ask(self, prompt: list[int], length: int, **more: Any) -> Any:
        settings = dict(n_predict=length, temperature=0, ignore_eos=True, cache_prompt=False)
        answer = self.server.handle_completions({"prompt": prompt, **settings, **more})
        answer = json.loads(answer) if isinstance(answer, str | bytes) else answer
        if "choices" not in answer:
            raise RuntimeError(f"llama.cpp answered {str(answer)[:200]}")
        return answer["choices"][0]

    def write(self, prompt: list[int], length: int) -> list[int]:
        self._ask(prompt, length)
        return []  # it gives out text; see `check`

    def check(self, prompt: list[int], length: int) -> list[int]:
        return [step["id"] for step in self._ask(prompt, length, n_probs=1)["logprobs"]["content"]]

    def likeliest(self, prompt: list[int]) -> dict[int, float]:
        steps = self._ask(prompt, 1, n_probs=5)["logprobs"]["content"]
        return {entry["id"]: entry["logprob"] for entry in steps[0]["top_logprobs"]}


def write_gguf(run: Path, file: Path, int8: bool) -> None:
    """The weights of a run as llama.cpp reads them: a GPT-2, float32 or Q8_0. The words of its tokens mean nothing."""
    import gguf
    from safetensors.numpy import load_file

    config, tensors = json.loads((run / "config.json").read_text()), load_file(run / "model.safetensors")
    writer = gguf.GGUFWriter(file, "gpt2")
    writer.add_block_count(config["n_layer"])
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(4 * config["n_embd"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([f"t{i}" for i in range(config["vocab_size"])])
    writer.add_token_types([gguf.TokenType.NORMAL] * config["vocab_size"])
    writer.add_token_merges(["t 0"])
    writer.add_add_bos_token(False)
    q8 = gguf.GGMLQuantizationType.Q8_0
    for name, tensor in tensors.items():
        part, kind = name.removeprefix("transformer.").rsplit(".", 1)
        layer, _, inner = part.removeprefix("h.").partition(".") if part.startswith("h.") else ("", "", part)
        theirs = f"{f'blk.{layer}.' if layer else ''}{LLAMA_NAMES[inner]}.{kind}"
        tensor = np.ascontiguousarray(tensor.T if "c_" in inner and kind == "weight" else tensor)
        if int8 and tensor.ndim == 2 and inner != "wpe":
            writer.add_tensor(theirs, gguf.quants.quantize(tensor, q8), raw_dtype=q8)
        else:
            writer.add_tensor(theirs, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def open_side(who: str, run: Path, threads: int, nanogpt: Path) -> Any:
    if who == "nanogpt":
        return NanoGPT(run, who, threads, nanogpt)
    return (Transformers if who == "transformers" else LlamaCpp if who.startswith("llama") else Ours)(run, who, threads)


# ---- processes that take turns ------------------------------------------------------------------------------------------


def serve(side: Any) -> None:
    """For each line that comes in, a method and its arguments: call it; answer with what it gave, seconds and bytes."""
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        method = getattr(side, name, None) or getattr(side, {"check": "write"}.get(name, ""), None)
        started = time.perf_counter()
        value = method(*arguments) if method else None
        seconds = time.perf_counter() - started
        print("turn", json.dumps([value, seconds if method else None, most_memory()]), flush=True)


def most_memory() -> int:
    """The most bytes this process ever held. Not ru_maxrss, which begins with what the parent held at the fork."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024


class Served:
    """The other end of `serve`: a call of a method there -> what it gave, and its seconds."""

    def __init__(self, who: str, run: Path, threads: int, nanogpt: Path) -> None:
        command = [sys.executable, __file__, "--nanogpt", str(nanogpt), "--threads", str(threads)]
        # A file for what it says on stderr: llama.cpp says much, and a pipe that nobody reads would stop it.
        self.said = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        self.process = subprocess.Popen(
            [*command, "--serve", who, "--run", str(run)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        )  # fmt: skip
        self.bytes = 0.0
        with contextlib.suppress(RuntimeError):  # `checked` will hear it again
            self("opened")  # one after the other, for ours looks how busy the machine is

    def __call__(self, *call: Any) -> tuple[Any, float]:
        """Raises RuntimeError with the last words of a process that ended."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # its last words follow
            self.process.stdin.write(json.dumps(call) + "\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("turn "):  # other lines are what a model says of itself
                value, seconds, self.bytes = json.loads(line[5:])
                return value, seconds
        self.said.seek(0)
        raise RuntimeError((self.said.read().strip().splitlines() or ["it ended without a word"])[-1][:200])

    def end(self) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.said.close()


def checked(side: Served, who: str, prompt: list[int], expected: list[int], likeliest: dict[int, float]) -> str:
    """Why a side cannot be compared, or nothing if it writes what it should."""
    try:
        if who.endswith("int8"):
            theirs, _ = side("likeliest", prompt)
            off = max(abs(logprob - likeliest.get(int(i), -np.inf)) for i, logprob in theirs.items())
            return f"its likeliest tokens differ by {off:.3f} nats" if off > NEAR else ""
        tokens, _ = side("check", prompt, len(expected))
        same = [a == b for a, b in zip(tokens, expected, strict=True)]
        return "" if all(same) else f"its text differs from token {same.index(False)} on"
    except (RuntimeError, ValueError) as error:
        return str(error)


# ---- what is measured ---------------------------------------------------------------------------------------------------


def make_run(size: str, folder: Path) -> Path:
    """A run of a few steps of training. GPT-2's vocabulary: a text of so many characters."""
    from machine import shakespeare

    run, shape = folder / size, SIZES[size]
    if run.exists():
        return run
    text = shakespeare()
    if size == "gpt2":
        text = str(folder / "characters.txt")
        Path(text).write_text("".join(map(chr, range(0x100, 0x100 + VOCABULARY))) * 2, encoding="utf-8")
    numbers = {name: shape[name] for name in ("n_layer", "n_head", "n_embd", "block_size")}
    numbers |= dict(batch_size=4 if shape["steps"] > 1 else 1, max_iters=shape["steps"], eval_tokens=shape["block_size"])
    flags = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "minigpt", "train", text, "--out", str(run), "--arch", "gpt", "--device", "cpu", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the run could not be made: {done.stderr.strip()[-500:]}")
    return run


def plain(run: Path, prompt: list[int], length: int) -> tuple[list[int], dict[int, float]]:
    """What the forward pass of torch writes, everything read again for each token; its likeliest first tokens."""
    import torch

    from minigpt.checkpoint import load

    model, _ = load(run)
    tokens = list(prompt)
    likeliest: dict[int, float] = {}
    with torch.inference_mode():
        for _ in range(length):
            scores = model(torch.tensor([tokens]))[0][0, -1]
            if not likeliest:
                likeliest = dict(enumerate(scores.double().log_softmax(-1).tolist()))
            tokens.append(int(scores.argmax()))
    return tokens[len(prompt) :], likeliest


READ = r"""
#include <stddef.h>
typedef float Floats __attribute__((vector_size(64)));
double read_all(const Floats *a, long n, int times, int threads) {
    double all = 0;
#pragma omp parallel num_threads(threads) reduction(+ : all)
    for (int t = 0; t < times; t++) {
        Floats sum[8] = {0};
#pragma omp for schedule(static)
        for (long i = 0; i < n / 8; i++)
            for (int k = 0; k < 8; k++) sum[k] += a[8 * i + k];
        for (int k = 0; k < 8; k++) all += sum[k][0];
    }
    return all;
}
"""


def bandwidth(size: int, threads: int, folder: Path) -> float:
    """Bytes/s at which a loop in C reads so many bytes again and again: from the memory, or the cache they fit into.

    The best of seven: it is a bound.
    """
    import ctypes

    library = folder / "read.so"
    if not library.exists():
        source = folder / "read.c"
        source.write_text(READ)
        flags = ["-O3", "-march=native", "-ffast-math", "-fopenmp", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, str(source), "-o", str(library)], check=True)
    read_all = ctypes.CDLL(str(library)).read_all
    read_all.restype = ctypes.c_double
    room = np.ones(size // 4 + 16, np.float32)
    start = ctypes.c_void_p(-(-room.ctypes.data // 64) * 64)
    times = max(1, 200_000_000 // size)
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        read_all(start, ctypes.c_long(size // 64), times, threads)
        seconds.append(time.perf_counter() - started)
    return size * times / min(seconds)


def weights_of(run: Path) -> int:
    """Weights that a token is multiplied by."""
    c = json.loads((run / "config.json").read_text())
    return 12 * c["n_layer"] * c["n_embd"] ** 2 + c["vocab_size"] * c["n_embd"]


def bytes_of(run: Path, int8: bool, texts: int = 1, length: int = PROMPT + NEW // 2) -> int:
    """What has to be read for a token of each text: the weights once, and the keys and values of texts of middle length."""
    c = json.loads((run / "config.json").read_text())
    return weights_of(run) * (1 if int8 else 4) + texts * 2 * c["n_layer"] * c["n_embd"] * 4 * length


def bound_of_many(run: Path, int8: bool, length: int, threads: int, folder: Path) -> float:
    """tokens/s of TEXTS texts that neither the memory allows to exceed nor torch's fastest product of matrices."""
    import torch

    from minigpt.machine import peak_flops

    torch.set_num_threads(threads)
    size, flops = bytes_of(run, int8, TEXTS, length), peak_flops(torch.device("cpu"))
    assert flops is not None
    return min(TEXTS * bandwidth(size, threads, folder) / size, flops / (2 * weights_of(run)))


def first_character(run: Path, times: int) -> float:
    """Seconds of `minigpt generate` from the start of its process to the first character of its text; the median."""
    seconds = []
    command = [sys.executable, "-m", "minigpt", "generate", str(run), "--max-new-tokens", "20"]
    for _ in range(times + 1):  # the first fills the cache of the file system
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert process.stdout is not None
        if not process.stdout.read(1):
            sys.exit(f"minigpt generate {run} wrote nothing")
        seconds.append(time.perf_counter() - started)
        process.communicate()
    return statistics.median(seconds[1:])


def loss(model: Any, windows: np.ndarray) -> float:
    """Mean nats/token of text in windows (N, T + 1), all read side by side."""
    readers, total = [model.reader() for _ in windows], 0.0
    for t in range(windows.shape[1] - 1):
        scores = model.read_all(readers, windows[:, t : t + 1].tolist()).astype(np.float64)
        scores -= scores.max(1, keepdims=True)
        total -= (scores[np.arange(len(windows)), windows[:, t + 1]] - np.log(np.exp(scores).sum(1))).sum()
    return total / (len(windows) * (windows.shape[1] - 1))


def cost_of_int8(run: Path, threads: int) -> str:
    """What rounding to int8 costs on validation text of tiny Shakespeare, in words."""
    from machine import shakespeare

    from minigpt import load_corpus

    ids = np.asarray(load_corpus([shakespeare()]).val).astype(np.int64)
    exact, rounded = (Ours(run, who, threads).model for who in ("native", "native-int8"))
    T = exact.block_size
    windows = np.stack([ids[i * T : i * T + T + 1] for i in range(20_000 // T)])
    a, b = loss(exact, windows), loss(rounded, windows)
    return (
        f"What int8 costs: on {len(windows) * T:,} tokens of the validation text, in windows of {T}, a model of "
        f"{exact.numpy.n_layer} layers and {exact.numpy.n_embd} channels has a loss of {a:.4f} nats/token with float32 "
        f"weights and {b:.4f} with int8: {b - a:+.4f}."
    )


def compare(size: str, sides: list[str], flags: argparse.Namespace, folder: Path) -> list[list[str]]:
    """The rows of one size."""
    run, shape = make_run(size, folder), SIZES[size]
    vocab_size = json.loads((run / "config.json").read_text())["vocab_size"]
    prompts = np.random.default_rng(0).integers(vocab_size, size=(TEXTS, PROMPT)).tolist()
    expected, likeliest = plain(run, prompts[0], shape["many"])
    served = {who: Served(who, run, flags.threads, flags.nanogpt) for who in sides}
    why = {who: checked(side, who, prompts[0], expected, likeliest) for who, side in served.items()}
    able = [who for who in sides if not why[who]]
    firsts: dict[str, list[float]] = {who: [] for who in able}
    totals: dict[str, list[float]] = {who: [] for who in able}
    many: dict[str, list[float]] = {who: [] for who in able}
    memory, bounds, bounds_of_many = {}, dict.fromkeys(able, 0.0), dict.fromkeys(able, 0.0)
    for _ in range(flags.rounds):
        for who in able:
            firsts[who].append(served[who]("write", prompts[0], 1)[1])
            totals[who].append(served[who]("write", prompts[0], NEW)[1])
            memory[who] = served[who].bytes
            size_read = bytes_of(run, who.endswith("int8"))
            bounds[who] = max(bounds[who], bandwidth(size_read, flags.threads, folder) / size_read)
    several = [who for who in able if who in ("native", "native-int8", "torch", "transformers")]
    for who in several:
        served[who]("write_many", [p[:1] for p in prompts], 1)  # memory is fetched from the system once
    for _ in range(flags.rounds):
        for who in several:
            many[who].append(served[who]("write_many", [p[:1] for p in prompts], shape["many"])[1])
            bound = bound_of_many(run, who.endswith("int8"), shape["many"] // 2, flags.threads, folder)
            bounds_of_many[who] = max(bounds_of_many[who], bound)
    for ends in ("", "-int8"):  # whoever reads as many bytes has the same bound: the best that was seen
        alike = [who for who in able if who.endswith("-int8") == bool(ends)]
        for found in (bounds, bounds_of_many):
            found |= dict.fromkeys(alike, max((found[who] for who in alike), default=0.0))
    for side in served.values():
        side.end()
    rows = []
    for who in sides:
        if why[who]:
            rows.append([shape["name"], SIDES[who], f"left out: {why[who]}", *[""] * 5])
        else:
            rate = NEW / statistics.median(totals[who])
            bound = bounds[who]
            together, share = TEXTS * shape["many"] / statistics.median(many[who]) if many[who] else 0, 0.0
            if together:
                share = together / bounds_of_many[who]
            rows.append([shape["name"], SIDES[who], _digits(rate), _digits(bound), f"{rate / bound:.0%}",
                         f"{1000 * statistics.median(firsts[who]):,.3g} ms", f"{memory[who] / 1e6:,.0f} MB",
                         f"{_digits(together)} ({together / rate:.1f} times; {share:.0%})" if together else ""])  # fmt: skip
        print(rows[-1], flush=True)
    return rows


def _digits(value: float) -> str:
    """Four digits, and no exponent."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, metavar="PATH", help="a clone of nanoGPT")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="turns of each  [default: 3]")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="of each side  [default: all]")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument(
        "--run", type=Path, nargs="+", metavar="RUN", help="trained GPTs of tiny Shakespeare, for the cost of int8"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the runs are kept for the next time")
    parser.add_argument("--serve", choices=SIDES, help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.serve:
        serve(open_side(flags.serve, flags.run, flags.threads, flags.nanogpt))
        return
    if not (flags.nanogpt / "model.py").is_file():
        parser.error(f"{flags.nanogpt} has no model.py; name a clone of nanoGPT")
    from machine import ROOT, describe, table

    with tempfile.TemporaryDirectory() as temporary:
        folder = flags.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [row for size in flags.sizes for row in compare(size, flags.sides, flags, folder)]
        starts = [[SIZES[size]["name"], f"{first_character(folder / size, 5):.2f} s"] for size in flags.sizes]
        words = "\n".join(cost_of_int8(run, flags.threads) for run in flags.run or [make_run("small", folder)])
    for line in (*starts, words):
        print(line, flush=True)
    if (flags.sizes, flags.sides) != (list(SIZES), list(SIDES)):
        return
    peers = [name for name in ("transformers", "xllamacpp") if importlib.util.find_spec(name)]
    header = ["model", "who", f"tokens/s, {NEW} new", "bound", "share of it", "first token", "peak memory",
              f"{TEXTS} texts at once, tokens/s"]  # fmt: skip
    several = ", ".join(f"{shape['many']} ({shape['name']})" for shape in SIZES.values())
    contexts = ", ".join(f"{shape['name']} {shape['block_size']}" for shape in SIZES.values())
    text = f"""# Writing

Made by `python benchmarks/generation.py --nanogpt PATH --run RUN RUN`.

{describe(*peers, nanogpt=flags.nanogpt)}.

They take turns, {flags.rounds} of {NEW} tokens after a prompt of {PROMPT}, greedy, each in a process of its own with
{flags.threads} threads, on the same weights. Medians. Contexts: {contexts}.
llama.cpp is asked in its process, through the server that the wheel xllamacpp has, which is part of its time.
The first token includes reading the prompt. Many texts begin with one token and have {several} more each; ours are drawn by
chance, each for itself, and those of transformers greedy, which is less work. The bound: a token cannot be written
faster than its weights and the keys and values of a text of middle length can be read once; a loop in C reads as many bytes
again and again, from the cache if they fit there, and the bound is its best. nanoGPT has no cache, so its bound is far.
Behind the rate of many texts: how many times that of one it is, and its share of a bound that is the smaller of two: weights
read once for all texts and keys and values for each, and two operations for each weight and token at the rate of torch's
fastest product.

{table(header, rows)}

{words}

The whole program `minigpt generate RUN`, from its start to the first character on its standard output, the median of 5:

{table(["model", "first character"], starts)}
"""
    (ROOT / "benchmarks/generation.md").write_text(text)


if __name__ == "__main__":
    main()
