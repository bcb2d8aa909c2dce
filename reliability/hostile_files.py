"""Model folders that were damaged or made to harm. Whatever is in them: the true model, or one clear error.

Next: hostile_text.py
"""

import json
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from random import Random
from typing import Any

import torch

from minigpt import lock
from minigpt.checkpoint import Run, load
from minigpt.config import SampleConfig
from minigpt.files import MANIFEST, sha256, to_json
from minigpt.modern import ModernGPT
from minigpt.opening import open_run
from minigpt.saved import read_run_config
from minigpt.writing import write

from . import audit
from .suite import Broken, Suite, Trial
from .trainings import TINY, flags, run_minigpt, wait, write_text

MODEL = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors", MANIFEST)
CHECKPOINT = ("model.safetensors", "optimizer.safetensors", "state.json", MANIFEST)
MORE_MEMORY = 200_000_000  # bytes, beside the size of the file
SECONDS = 1.0  # of the processor, for one file


def prepare(shared: Path) -> None:
    """A run of two steps with one checkpoint. Its weights take 17 kB."""
    write_text(shared / "text.txt")
    code, said = run_minigpt(
        ["train", "text.txt", "--out=run", "--arch=modern", "--device=cpu", *flags(**TINY | {"max_iters": 2})], shared
    )
    if code:
        raise RuntimeError(said)
    for earlier in sorted((shared / "run" / "checkpoints").glob("step-*"))[:-1]:
        shutil.rmtree(earlier)


@cache
def files(shared: Path) -> list[tuple[Path, int]]:
    """The files that are damaged one by one, as paths in the run, with their sizes."""
    step = next((shared / "run" / "checkpoints").iterdir()).relative_to(shared / "run")
    paths = [Path(name) for name in MODEL] + [step / name for name in CHECKPOINT]
    return [(path, (shared / "run" / path).stat().st_size) for path in paths]


def count_bytes(shared: Path) -> int:
    return sum(size for _, size in files(shared))


def place(shared: Path, number: int) -> tuple[Path, int]:
    """Byte `number` of all files -> its file and its place there."""
    for path, size in files(shared):
        if number < size:
            return path, number
        number -= size
    raise IndexError(number)


def damaged_bits(trial: Trial) -> str:
    """Each of the eight bits of a byte."""
    path, at = place(trial.shared, trial.number)
    data = bytearray((trial.shared / "run" / path).read_bytes())
    ended = []
    for bit in range(8):
        data[at] ^= 1 << bit
        ended.append(use_damaged(trial, path, bytes(data)))
        data[at] ^= 1 << bit
    refused = ended.count("refused")
    return "all 8 refused" if refused == 8 else f"{refused} refused, {8 - refused} harmless"


def damaged_lengths(trial: Trial) -> str:
    path, length = place(trial.shared, trial.number)
    return use_damaged(trial, path, (trial.shared / "run" / path).read_bytes()[:length])


def use_damaged(trial: Trial, path: Path, data: bytes) -> str:
    """Open a run with one damaged file: refused, or harmless."""
    run = trial.folder / "run"
    if not run.exists():
        shutil.copytree(trial.shared / "run", run)
    (run / path).write_bytes(data)
    found = opened(trial, run, resume=len(path.parts) > 1)
    if len(path.parts) == 1:
        trial.check((found is None) == (not opens_without_torch(trial, run)), f"{path}: torch and NumPy do not agree")
    (run / path).write_bytes((trial.shared / "run" / path).read_bytes())
    if found is None:
        return "refused"
    trial.check(found == undamaged(trial.shared, len(path.parts) > 1), f"{path} is damaged and something else was loaded")
    shutil.rmtree(run)  # a run that was resumed is no more what it was
    return "harmless"


def opened(trial: Trial, run: Path, resume: bool) -> dict[str, Any] | None:
    """All that comes of opening a run, to be compared; None if it is refused."""
    try:
        return everything(run, resume)
    except (ValueError, OSError) as error:
        check_clear(trial, str(error))
        return None
    finally:
        let_go(run)


def opens_without_torch(trial: Trial, run: Path) -> bool:
    try:
        open_run(run, "numpy")
    except (ValueError, OSError) as error:
        check_clear(trial, str(error))
        return False
    return True


def everything(run: Path, resume: bool) -> dict[str, Any]:
    """The weights, the tokenizer and the settings of a run; of one that is resumed, the whole state."""
    if not resume:
        model, tokenizer = load(run)
        config = read_run_config(run)
        return {"weights": digest(dict(model.named_parameters())), "tokenizer": tokenizer.to_hf(), "config": config}
    resumed, notes = Run.resume(run, max_iters=4)
    state = vars(resumed.state).copy()
    optimizer = state.pop("optimizer").state
    tensors = {f"{i} {key}": value for i, own in enumerate(optimizer.values()) for key, value in own.items()}
    weights = digest(dict(resumed.model.named_parameters()) | tensors)
    return {
        "weights": weights,
        "tokenizer": resumed.tokenizer.to_hf(),
        "state": state,
        "notes": notes,
        "about": resumed.about,
    }


@cache
def undamaged(shared: Path, resume: bool) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        run = shutil.copytree(shared / "run", Path(folder) / "run")
        try:
            return everything(run, resume)
        finally:
            let_go(run)


def digest(tensors: dict[str, torch.Tensor]) -> str:
    return sha256(b"".join(name.encode() + tensors[name].detach().numpy().tobytes() for name in sorted(tensors)))


def let_go(run: Path) -> None:
    """Give up the lock of a run, which a process holds as long as it lives."""
    if descriptor := lock._held.pop(run.resolve(), None):
        os.close(descriptor)


def check_clear(trial: Trial, said: str) -> None:
    """An error is one or two sentences that a terminal can show."""
    trial.check(0 < len(said) < 1000, f"an error of {len(said):,} characters: {said[:200]!r}")
    trial.check(said.isprintable(), f"an error with control characters: {said!r}")


# ---- fuzzing -----------------------------------------------------------------------------------------------------------

NESTED = 10**5
RAW = {  # what json.dumps does not write, by what stands for it
    "@deep list": "[" * NESTED + "]" * NESTED,
    "@less deep": "[" * 900 + "]" * 900,
    "@deep object": '{"a":' * NESTED + "1" + "}" * NESTED,
    "@digits": "9" * 5000,
    "@float": "1e400",
    "@minus zero": "-0.0",
    "@surrogate": '"\\ud800"',
}
EXTREMES: list[Any] = [
    0, 1, -1, 2, 3, 7, 8, 16, 62, 63, 64, 255, 1000, 1001, 2**20, 2**24, 2**31, 2**53, 2**63, 2**64 - 1, 10**9,
    10**400, -(2**63),
    0.0, 0.5, 1.0, 16.0, -1.5, 1e308, float("nan"), float("inf"), -float("inf"),
    "", "gpt2", "qwen3", "minigpt-bigram", "minigpt-rung", "cuda", "\x1b[2J", "<b>", "../../x", "{{ 7 * 7 }}", "\0",
    "é" * 300, "x" * 10**5,
    None, True, False, [], {}, [[]], [0], [-1, 2], {"": {}}, [1] * 1000, *RAW,
]  # fmt: skip
KINDS = ("config.json", "tokenizer.json", "model.safetensors", "state.json", "optimizer.safetensors", MANIFEST)
DTYPES = ["F32", "F64", "F16", "BF16", "I64", "I8", "U8", "BOOL", "F8_E4M3", "C64", "F4", "X"]


def fuzz_files(trial: Trial) -> str:
    """One file of a run is changed in some places, with a manifest that knows of it, or none; then the run is used."""
    rng, run = trial.rng, shutil.copytree(trial.shared / "run", trial.folder / "run")
    kind = rng.choice(KINDS)
    step = next((run / "checkpoints").iterdir())
    path = rng.choice([folder / kind for folder in (run, step) if (folder / kind).exists()])
    whole = path.read_bytes()
    data = spoiled_tensors(rng, whole) if path.suffix == ".safetensors" else spoiled_json(rng, whole)
    path.write_bytes(data)
    if kind != MANIFEST:
        vouch(path, rng)
    warm(trial.shared)
    how = resume_and_use if path.parent == step else rng.choice((load_and_use, write_and_use, open_and_use))
    if how is write_and_use and path.suffix == ".safetensors":  # with a context as it was: for a long one, C reserves much
        how = partial(write_and_use, engine="auto")
    try:
        with bounded(len(data)):
            how(run)
    except (ValueError, OSError, ArithmeticError) as error:
        check_clear(trial, str(error))
        return f"{kind} refused"
    finally:
        let_go(run)
    return f"{kind} used"


def vouch(path: Path, rng: Random) -> None:
    """Let the manifest of a folder say that a file is as it should be, so that it does not hide what reads the file."""
    manifest = path.parent / MANIFEST
    if path.parent.parent.name != "checkpoints" and rng.random() < 0.5:
        manifest.unlink()
        return
    value, data = json.loads(manifest.read_bytes()), path.read_bytes()
    value["files"][path.name] = {"size": len(data), "sha256": sha256(data)}
    manifest.write_bytes(to_json(value))


def load_and_use(run: Path) -> None:
    model, tokenizer = load(run)
    tokenizer.decode([0])
    forward(model)


def write_and_use(run: Path, engine: str = "numpy") -> None:
    """As minigpt generate does, without torch."""
    model, tokenizer, _ = open_run(run, engine)
    list(write(model, tokenizer, "", SampleConfig(max_new_tokens=3)))


def resume_and_use(run: Path) -> None:
    forward(Run.resume(run, max_iters=4)[0].model)


def open_and_use(run: Path) -> None:
    """As a folder that transformers may have written."""
    forward(ModernGPT.from_pretrained(run))


def forward(model: Any) -> None:
    with torch.no_grad():
        model(torch.zeros((1, min(4, model.block_size)), dtype=torch.long))


@cache
def warm(shared: Path) -> None:
    """What is loaded and remembered at the first use is no affair of a trial."""
    with tempfile.TemporaryDirectory() as folder:
        for name, use in enumerate((open_and_use, load_and_use, write_and_use, resume_and_use)):
            run = shutil.copytree(shared / "run", Path(folder) / str(name))
            use(run)
            let_go(run)


@contextmanager
def bounded(size: int) -> Iterator[None]:
    """Time and memory for a file of a size. What takes more is broken."""

    def too_slow(number: int, frame: object) -> None:
        raise Broken(f"it takes more than {SECONDS} s")

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = signal.signal(signal.SIGPROF, too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (now + size + MORE_MEMORY, hard))
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    except MemoryError:
        raise Broken(f"it takes more than {MORE_MEMORY:,} bytes") from None
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGPROF, before)


def spoiled_json(rng: Random, data: bytes) -> bytes:
    if rng.random() < 0.15:
        return spoiled_bytes(rng, data)
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = spoiled(rng, value)
    return written(rng, value)


def spoiled(rng: Random, value: Any) -> Any:
    """A JSON value, changed in one place."""
    whole = any(value is extreme for extreme in EXTREMES)  # shared by all trials, so not to be changed inside
    if not isinstance(value, dict | list) or not value or whole or rng.random() < 0.05:
        near = [value + 1, value - 1, -value, as_float(value), str(value)] if type(value) in (int, float) else []
        return rng.choice([*EXTREMES, *near * 5])
    keys = list(value) if isinstance(value, dict) else range(len(value))
    key, what = rng.choice(list(keys)), rng.random()
    if what < 0.1:
        del value[key]
    elif what < 0.2 and isinstance(value, dict):
        value[str(rng.choice(EXTREMES))[:200] if rng.random() < 0.5 else f"{key} "] = rng.choice(EXTREMES)
    elif what < 0.25 and isinstance(value, dict):
        value[f"{key}@again"] = rng.choice(EXTREMES)  # the same key twice
    else:
        value[key] = spoiled(rng, value[key])
    return value


def as_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return float("inf")


def written(rng: Random, value: Any) -> bytes:
    """As JSON, with what stands for something that json.dumps does not write."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5).replace("@again", "")
    for name, raw in RAW.items():
        text = text.replace(f'"{name}"', raw)
    return text.encode("utf-16" if rng.random() < 0.02 else "utf-8", "surrogatepass")


def spoiled_bytes(rng: Random, data: bytes) -> bytes:
    """Some bytes lost, doubled, overwritten or put in."""
    start = rng.randrange(len(data))
    end = min(len(data), start + rng.choice((1, 2, 8, 64, 1000)))
    piece = rng.choice(
        (b"", data[start:end] * 2, rng.randbytes(end - start), data[start:end][::-1], b"\0" * rng.randrange(5000))
    )
    return data[:start] + piece + data[end:]


def spoiled_tensors(rng: Random, data: bytes) -> bytes:
    """A .safetensors file with another header."""
    length = int.from_bytes(data[:8], "little")
    header, tensors = json.loads(data[8 : 8 + length]), data[8 + length :]
    what = rng.randrange(10)
    if what == 0:
        return spoiled_bytes(rng, data)
    if what == 1:
        longer = rng.choice((0, 1, length - 1, length + 1, len(data), 10**8, 2**31, 2**63, 2**64 - 1))
        return longer.to_bytes(8, "little") + data[8:]
    if what == 2:
        many = rng.choice((10, 1000, 50_000))
        header |= {f"extra.{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(many)}
    for _ in range(rng.choice((1, 1, 2))):
        name = rng.choice([key for key in header if isinstance(header[key], dict) and "shape" in header[key]])
        entry = header[name]
        if what == 3:
            entry["dtype"] = rng.choice(DTYPES)
        elif what == 4:
            entry["shape"] = rng.choice(
                ([], [0], [2**62, 4], [2**32, 2**32], [-1], [1] * 1000, [10**12], entry["shape"][::-1])
            )
        elif what == 5:
            first, last = (*entry["data_offsets"], 0)[:2]  # perhaps it was cut before
            wrong = ([last, first], [0, last], [first, last + 4], [first, 2**63], [first - 4, last - 4], [0, 0], [first])
            entry["data_offsets"] = rng.choice(wrong)
        elif what == 6:
            other = rng.choice(["", "\x1b[2J", "ü" * 500, "__metadata__", "x" * 10**5, name.upper(), f"{name}.weight"])
            header[other] = header.pop(name)
            if other == "__metadata__":
                break
        elif what == 7:
            header = spoiled(rng, header)
            break
        elif what == 8:  # bytes behind, or missing
            tensors = rng.choice((tensors[:-4], tensors + bytes(4), tensors + bytes(10**6), b""))
        elif what == 9:  # numbers that are none
            at = 4 * rng.randrange(len(tensors) // 4)
            tensors = tensors[:at] + rng.choice((b"\0\0\xc0\x7f", b"\0\0\x80\x7f", b"\xff\xff\x7f\x7f")) + tensors[at + 4 :]
    text = written(rng, header)
    return len(text).to_bytes(8, "little") + text + tensors


# ---- cases made by hand ------------------------------------------------------------------------------------------------


class Payload:
    """A pickle that leaves a mark where it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch EXECUTED",)


def pickled() -> bytes:
    import pickle  # to attack with; nothing here reads one

    return pickle.dumps(Payload())


def change(run: Path, name: str, **values: Any) -> None:
    """Change keys of a JSON file."""
    (run / name).write_text(json.dumps(json.loads((run / name).read_bytes()) | values))


def change_text(run: Path, **values: Any) -> None:
    about = json.loads((run / "config.json").read_bytes())["minigpt"]
    about["text"] |= values
    change(run, "config.json", minigpt=about)


def instead(path: Path, make: Callable[[Path], Any]) -> None:
    path.unlink()
    make(path)


def tensors(header: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def overlapping(run: Path) -> bytes:
    data = (run / "model.safetensors").read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    first, *others = (entry for entry in header.values() if "shape" in entry)
    for entry in others:
        if entry["shape"] == first["shape"]:
            entry["data_offsets"] = first["data_offsets"]
    return tensors(header, data[8 + length :])


def million_tensors() -> bytes:
    return tensors({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(10**6)})


def sparse(path: Path, start: bytes, size: int) -> None:
    path.write_bytes(start)
    os.truncate(path, size)


WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m<script>alert(1)</script>|[x](javascript:1)\n# big"

# name -> what is done to the run, and which commands have to refuse it: those that use the model, those that go on
# training, both, or neither.
CASES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a pickle as weights": (lambda r: (r / WEIGHTS).write_bytes(pickled()), "use"),
    "a pickle as config.json": (lambda r: (r / CONFIG).write_bytes(pickled()), "both"),
    "a pickle as tokenizer.json": (lambda r: (r / TOKENIZER).write_bytes(pickled()), "both but from_pretrained"),
    "pickles beside": (
        lambda r: [(r / f"pytorch_model{end}").write_bytes(pickled()) for end in (".bin", ".pt", ".pkl")],
        "neither",
    ),
    "pickles instead": (lambda r: [(r / "pytorch_model.bin").write_bytes(pickled()), (r / WEIGHTS).unlink()], "use"),
    "code beside": (
        lambda r: [(r / f"{name}.py").write_text("open('EXECUTED', 'w')") for name in ("torch", "sitecustomize")],
        "neither",
    ),
    "code to trust": (
        lambda r: change(r, CONFIG, auto_map={"AutoModel": "modeling.Model"}, trust_remote_code=True),
        "both but from_pretrained",
    ),
    "a template": (lambda r: change(r, "tokenizer_config.json", chat_template="{{ ''.__class__.__mro__ }}"), "neither"),
    "10^9 blocks": (lambda r: change(r, CONFIG, num_hidden_layers=10**9), "both"),
    "1000 blocks": (lambda r: change(r, CONFIG, num_hidden_layers=1000), "both"),
    "10^400 blocks": (lambda r: change(r, CONFIG, num_hidden_layers=10**400), "both"),
    "-1 blocks": (lambda r: change(r, CONFIG, num_hidden_layers=-1), "both"),
    "NaN channels": (lambda r: change(r, CONFIG, hidden_size=float("nan")), "both"),
    "-16 channels": (lambda r: change(r, CONFIG, hidden_size=-16), "both"),
    "16.0 channels": (lambda r: change(r, CONFIG, hidden_size=16.0), "both"),
    "infinite dropout": (lambda r: change(r, CONFIG, attention_dropout=float("inf")), "both"),
    "a list of sizes": (lambda r: change(r, CONFIG, vocab_size=[20]), "both"),
    "a list as model type": (lambda r: change(r, CONFIG, model_type=["gpt2"]), "both"),
    "a context of 2^20": (lambda r: change(r, CONFIG, max_position_embeddings=2**20), "neither"),
    "overlapping tensors": (lambda r: (r / WEIGHTS).write_bytes(overlapping(r)), "use"),
    "a header of 2^63 bytes": (lambda r: (r / WEIGHTS).write_bytes((2**63).to_bytes(8, "little") + b"{}"), "use"),
    "a header said to have 100 MB": (lambda r: (r / WEIGHTS).write_bytes((10**8).to_bytes(8, "little") + b"{}"), "use"),
    "a header of 100 MB": (lambda r: sparse(r / WEIGHTS, (10**8 - 8).to_bytes(8, "little") + b'{"a":', 10**8), "use"),
    "a million tensors": (lambda r: (r / WEIGHTS).write_bytes(million_tensors()), "use"),
    "10 GB of nothing": (lambda r: sparse(r / WEIGHTS, b"", 10**10), "use"),
    "10 GB of config.json": (lambda r: sparse(r / CONFIG, b"{", 10**10), "both"),
    "deep lists": (lambda r: (r / CONFIG).write_text("[" * 10**6), "both"),
    "deep objects": (lambda r: (r / CONFIG).write_text('{"a":' * 10**6), "both"),
    "a deep value": (lambda r: (r / CONFIG).write_text('{"model_type": ' + "[" * 900 + "]" * 900 + "}"), "both"),
    "an empty config.json": (lambda r: (r / CONFIG).write_text(""), "both"),
    "a bomb of tokens": (
        lambda r: change(r, TOKENIZER, model={"vocab": {str(i): 10**9 for i in range(10**5)}}),
        "both but from_pretrained",
    ),
    "unsortable tokens": (
        lambda r: change(r, TOKENIZER, model={"vocab": {"a": 1, "b": "x", "c": None}}),
        "both but from_pretrained",
    ),
    "a link to /etc/passwd": (lambda r: instead(r / CONFIG, lambda p: p.symlink_to("/etc/passwd")), "both"),
    "a link to /dev/zero": (lambda r: instead(r / WEIGHTS, lambda p: p.symlink_to("/dev/zero")), "use"),
    "a link to nowhere": (lambda r: instead(r / WEIGHTS, lambda p: p.symlink_to("nowhere")), "use"),
    "a link to itself": (lambda r: instead(r / CONFIG, lambda p: p.symlink_to(CONFIG)), "both"),
    "a pipe as config.json": (lambda r: instead(r / CONFIG, os.mkfifo), "both"),
    "a pipe as weights": (lambda r: instead(r / WEIGHTS, os.mkfifo), "use"),
    "a pipe as tokenizer.json": (lambda r: instead(r / TOKENIZER, os.mkfifo), "both but from_pretrained"),
    "a pipe as metrics": (lambda r: instead(r / "metrics.jsonl", os.mkfifo), "neither"),
    "a folder as config.json": (lambda r: instead(r / CONFIG, os.mkdir), "both"),
    "a folder as weights": (lambda r: instead(r / WEIGHTS, os.mkdir), "use"),
    "a folder as samples": (lambda r: instead(r / "samples.jsonl", os.mkdir), "neither"),
    "control sequences in names": (lambda r: change_text(r, name=ESCAPES, paths=[ESCAPES]), "neither"),
    "control sequences in keys": (lambda r: change(r, CONFIG, **{ESCAPES: ESCAPES}), "both but from_pretrained"),
    "control sequences in the version": (
        lambda r: change(r, CONFIG, minigpt={"format": 1, "version": ESCAPES}),
        "both but from_pretrained",
    ),
    "metrics of another kind": (
        lambda r: (r / "metrics.jsonl").write_text('{"val_loss": "x", "step": [1], "time": {"\\u001b[2J": "y"}}\n'),
        "neither",
    ),
    "samples of another kind": (lambda r: (r / "samples.jsonl").write_text('{"text": {"a": 1}, "step": "x"}\n'), "neither"),
    "a manifest of other folders": (
        lambda r: manifest(r, {"../../x": {"size": 1, "sha256": "0"}}),
        "both but from_pretrained",
    ),
    "a manifest of control sequences": (
        lambda r: manifest(r, {CONFIG: {"size": 10**400, "sha256": ESCAPES}}),
        "both but from_pretrained",
    ),
}  # fmt: skip


def manifest(run: Path, listed: dict[str, Any]) -> None:
    (run / MANIFEST).write_text(json.dumps({"format": 1, "files": listed}))


COMMANDS = {
    "generate": ["generate", "run", "--max-new-tokens=5", "--device=cpu"],
    "info": ["info", "run"],
    "eval": ["eval", "run", "text.txt", "--device=cpu"],
    "explain": ["explain", "run", "--json", "--device=cpu"],
    "resume": ["train", "text.txt", "--resume", "--out=run", "--max-iters=3", "--device=cpu"],
}


def hostile_corpus(trial: Trial) -> str:
    """A case, for each command that opens a run, and for from_pretrained."""
    name = list(CASES)[trial.number]
    spoil, refusing = CASES[name]
    shutil.copy(trial.shared / "text.txt", trial.folder)
    ended = []
    for command, arguments in COMMANDS.items():
        spoil(hostile_copy(trial, name))
        code, said = run_minigpt(arguments, trial.folder, on_guard)
        must = refusing.startswith("both") or (refusing == "use" and command != "resume")
        check_ended(trial, f"{name}: {command}", code, said, must)
        ended.append(code)
    hostile = hostile_copy(trial, name)
    spoil(hostile)
    code, said = in_a_child(trial.folder, lambda: open_and_use(hostile))
    check_ended(trial, f"{name}: from_pretrained", code, said, refusing in ("both", "use"))
    return "refused wherever it is read" if 1 in ended else "nothing to refuse"


def hostile_copy(trial: Trial, name: str) -> Path:
    """The run, without what would find every change before it can harm."""
    run = trial.folder / "run"
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(trial.shared / "run", run)
    if "manifest" not in name:
        (run / MANIFEST).unlink()
    return run


def on_guard() -> None:
    """In the child: no execution, no endless waiting, no endless memory."""
    audit.install()
    signal.alarm(30)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 10**9, -1))  # the command itself takes some


def in_a_child(folder: Path, act: Callable[[], None]) -> tuple[int, str]:
    """Do something as the command line does, in a process of its own -> exit code, what was said."""
    file = folder / "said.txt"
    pid = os.fork()
    if not pid:
        code = 70
        with suppress(BaseException):
            on_guard()
            try:
                os.chdir(folder)
                act()
                code = 0
                file.write_text("")
            except (ValueError, OSError) as error:
                code = 1
                file.write_text(f"minigpt: {error}\n", errors="replace")
            except BaseException as error:
                file.write_text(f"Traceback: {error!r}\n", errors="replace")
        os._exit(code)
    return wait(pid), file.read_text() if file.exists() else ""


def check_ended(trial: Trial, what: str, code: int, said: str, refused: bool) -> None:
    trial.check(not (trial.folder / "EXECUTED").exists(), f"{what}: executed")
    trial.check(
        code in ((1,) if refused else (0, 1)) and "Traceback" not in said, f"{what}: ended with {code}: {said[-600:]}"
    )
    shown = trial.folder / "stdout.txt"  # of all commands so far
    for text in (said, shown.read_text()) if shown.exists() else (said,):
        trial.check(not any(char in text for char in "\x1b\x07\x9b"), f"{what}: control sequences in {text[-600:]!r}")
    card = (trial.folder / "run" / "README.md").read_text()
    trial.check(
        not any(part in card for part in ("<script", "\n# big", "\x1b", "|[x](")), f"{what}: the card is broken: {card}"
    )
    if code == 1:
        lines = [line for line in said.splitlines() if line.startswith("minigpt: ")]
        trial.check(len(lines) == 1, f"{what}: said more than one thing: {said[-600:]}")


SUITES = [
    Suite("damaged-bits", "Whichever bit of a run is flipped, of weights, settings, tokenizer, manifests or checkpoint: it "
          "is refused with one clear error, or what is loaded is the same to the last bit. A trial is the 8 bits of a byte.",
          damaged_bits, count_bytes, 200, prepare, together=1000, in_memory=True),
    Suite("damaged-lengths", "Wherever a file of a run is cut off: it is refused with one clear error, or what is loaded is "
          "the same to the last bit.", damaged_lengths, count_bytes, 300, prepare, together=2000, in_memory=True),
    Suite("fuzz-files", "Whatever stands in the files of a run: it is used, or refused with one clear error, within a "
          "second and 200 MB beside the file.", fuzz_files, 200_000, 500, prepare, together=500, in_memory=True),
    Suite("hostile-corpus", "Files that were made to harm, one by one: none is executed, each is refused with one clear "
          "error by every command that reads it, and nothing of them controls a terminal or a page.",
          hostile_corpus, len(CASES), 8, prepare),
]  # fmt: skip
