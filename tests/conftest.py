"""What the tests share: a folder of their own, a text to learn from, and the command line as a function."""

import contextlib
import hashlib
import io
import os
import random
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import settings

from reliability import audit

audit.install()  # for the whole session: nothing that the package reads is ever executed

# The same examples every time, on slow machines too, and nothing kept in the repository.
settings.register_profile("minigpt", deadline=None, derandomize=True, database=None)
settings.load_profile("minigpt")

# Small models are fastest on one thread, and on a busy machine threads that wait for each other take a hundred times longer.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the programs that the tests start
torch.set_num_threads(1)  # of this one: torch has read its environment already

os.environ["HF_HUB_OFFLINE"] = "1"  # read when transformers is imported
HOME = os.environ.get("MINIGPT_HOME")  # of the environment, before any test changes it

# A model that is trained in a moment.
TINY = ["--n-layer=1", "--n-head=2", "--n-embd=16", "--block-size=8", "--batch-size=4", "--max-iters=2", "--device=cpu"]


@pytest.fixture(scope="session")
def native_files(tmp_path_factory) -> list[Path]:
    """native.c, compiled once for all tests and the programs that they start; nothing without a compiler."""
    from minigpt.native_engine import NoCompiler, library

    with pytest.MonkeyPatch.context() as patch:
        home = Path(HOME or tmp_path_factory.mktemp("compiled"))
        patch.setenv("MINIGPT_HOME", str(home))
        with contextlib.suppress(NoCompiler):
            library()
        return list(home.glob("native-*.so"))


@pytest.fixture(autouse=True)
def own_folder(tmp_path, tmp_path_factory, monkeypatch, native_files):
    """Each test starts in an empty folder, offline, with the cache of the environment or one that knows no text."""
    if not HOME:
        home = tmp_path_factory.mktemp("home")
        for file in native_files:
            shutil.copy(file, home)
    monkeypatch.setenv("MINIGPT_HOME", HOME or str(home))
    monkeypatch.setenv("MINIGPT_OFFLINE", "1")
    monkeypatch.delenv("MINIGPT_MAX_ITERS", raising=False)
    monkeypatch.delenv("MINIGPT_DEBUG", raising=False)
    monkeypatch.chdir(tmp_path)
    yield
    noticed, audit.caught[:] = audit.caught[:], []
    assert not noticed, f"the package executes what it should not: {noticed}"


@pytest.fixture(scope="session")
def text() -> str:
    """20,000 characters, 40 different ones, in sentences with something to learn: who does what, and where."""
    rng = random.Random(1337)
    who = ["the king", "the queen", "a fox", "an ox", "my quiet friend", "the jolly baker", "a lazy dog", "Dora", "Otto"]
    does = ["sees", "follows", "forgets", "asks for", "jumps over", "pays for", "seizes", "reads of", "walks around"]
    what = ["the old river", "a lamp", "two loaves of bread", "the north wind", "a box; a big one", "seven keys"]
    end = [".", ".", ".", "!", "?", ", again.", " - at night.", ": 'why not?'", ".\n"]
    sentences = []
    while sum(map(len, sentences)) < 20_000:
        sentence = f"{rng.choice(who)} {rng.choice(does)} {rng.choice(what)}{rng.choice(end)}"
        capital = sentence[0].upper() if sentence[0] in "ta" else sentence[0]
        sentences.append(f"{capital}{sentence[1:]}\n")
    return "".join(sentences)


@pytest.fixture
def text_file(tmp_path, text) -> Path:
    path = tmp_path / "my.txt"
    path.write_bytes(text.encode())
    return path


@pytest.fixture(scope="session")
def shakespeare() -> Path:
    """The real tiny Shakespeare, where the environment has it."""
    from minigpt.corpus import SHAKESPEARE_SHA256

    path = Path(HOME or "") / "tinyshakespeare.txt"
    if not HOME or not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != SHAKESPEARE_SHA256:
        pytest.skip("needs tiny Shakespeare: put it as tinyshakespeare.txt in a folder and name that in MINIGPT_HOME")
    return path.absolute()


@pytest.fixture(scope="session")
def compiler() -> list[str]:
    """The command of a C compiler. Where there is one, native.c has to compile."""
    from minigpt.native_engine import NoCompiler, find_compiler

    try:
        return find_compiler()
    except NoCompiler as error:
        pytest.skip(str(error))


class Result(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def run_cli(capsys, monkeypatch) -> Callable[..., Result]:
    """`run_cli("train", "my.txt", "--n-layer", 4)` -> what a shell would get from it."""

    def run(*args, stdin: str | bytes | None = None) -> Result:
        from minigpt.cli import main

        data = stdin.encode() if isinstance(stdin, str) else stdin or b""
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8"))
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.filterwarnings("default", category=UserWarning, module="minigpt")  # shown to the user, not raised
            with pytest.raises(SystemExit) as ended:
                main(arguments=[str(arg) for arg in args])
        return Result(ended.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory, text) -> Path:
    """A run of two steps, made once. Do not change it; `run` is a copy."""
    from minigpt.cli import main

    folder = tmp_path_factory.mktemp("trained")
    path = folder / "my.txt"
    path.write_bytes(text.encode())
    with pytest.raises(SystemExit) as ended:
        main(arguments=["train", str(path), "--out", str(folder / "run"), *TINY])
    assert not ended.value.code
    return folder / "run"


@pytest.fixture
def run(trained, tmp_path) -> Path:
    """A run of two steps that a test may spoil."""
    return shutil.copytree(trained, tmp_path / "run")


def awake(model):
    """A new model whose matrices that start at zero do not: what is computed can be seen before anything is learned."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.dim() == 2 and not parameter.detach().any():
            torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return model


def side_by_side(model, prompts, config, first_sample=0) -> list[list[int]]:
    """The tokens after each prompt, all texts written at once."""
    from minigpt.engine import Writer, draw_all, read_all, reader_of

    texts = [Writer(reader_of(model), prompt, config, first_sample + i) for i, prompt in enumerate(prompts)]
    columns = [draw_all(texts, read_all(model, texts)) for _ in range(config.max_new_tokens)]
    return [[step.token for step in steps] for steps in zip(*columns, strict=True)]


@pytest.fixture(autouse=True)
def heeded():
    """What was interrupted in a test is no concern of the next."""
    from minigpt.signals import nothing_interrupted

    yield
    nothing_interrupted()
