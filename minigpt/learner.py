"""A learner's own file: find the model in it, and the sizes that it was made with.

    model, vocab_size, block_size = load_model(Path("my_gpt.py"))

Importing a file runs it, and it may do all that you may do: load only a file that you wrote, or have read.

Next: check.py
"""

import ast
import dataclasses
import importlib.util
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any
from unittest import mock

import torch
import torch.nn as nn

EXAMPLE = """
    class GPT(nn.Module):
        def __init__(self, vocab_size, block_size): ...
        def forward(self, idx, targets=None):
            ...
            return logits, loss
    model = GPT(vocab_size=65, block_size=32)"""

# What a size may be called, and what it is made where a class asks for it: small, since the mistakes are the same.
SIZES: dict[str, tuple[Any, str]] = {
    "vocab_size": (65, "vocab_size n_vocab vocabulary_size num_tokens n_tokens vocab"),
    "block_size": (32, "block_size context_length context_size max_seq_len max_len seq_len n_ctx n_positions max_length"),
    "n_layer": (2, "n_layer n_layers num_layers num_blocks n_blocks depth"),
    "n_head": (2, "n_head n_heads num_heads heads"),
    "n_embd": (32, "n_embd n_embed embed_dim emb_dim embedding_dim d_model dim hidden_size embed_size"),
    "dropout": (0.0, "dropout drop_rate dropout_rate p_drop"),
    "device": ("cpu", "device"),
}
SMALL = {name: value for value, names in SIZES.values() for name in names.split()}


def load_model(path: Path, name: str | None = None) -> tuple[nn.Module, int, int]:
    """Import a learner's file, which runs it, and find the model in it -> model, vocab_size, block_size.

    What is under `if __name__ == "__main__":` does not run. Training outside of it is left out, with a warning.
    The model is what has the given name, or an nn.Module named `model`, or what make_model() returns, or of the last class
    whose forward takes targets. A class gets the numbers or the config of the file, and where there are none, small ones.
    Raises OSError for a file that cannot be read, ValueError for one that does not run or has no model.
    """
    path = path.absolute()
    with torch.random.fork_rng([]):
        torch.manual_seed(1337)
        module = _run(path)
        model = found = _find(module, path, name)
        if not isinstance(found, nn.Module):
            try:
                model = found(**_arguments(found, module))
                model.to(vars(module).get("device"))
            except Exception as error:
                raise ValueError(
                    f"{path.name} has {found.__name__}, which does not give an nn.Module: {said(error, path)}. "
                    f"Make one in the file: model = {found.__name__}(...)"
                ) from error
    return model, *_sizes(model, module, path)


class _Loader(SourceFileLoader):
    """Runs a parsed file, without reading or writing __pycache__."""

    tree: ast.Module

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.tree, self.path, "exec")


def _run(path: Path) -> ModuleType:
    """The file as a module. While it runs, it can import its neighbours, and sees no arguments of the command line."""
    source = path.read_bytes()
    if path.suffix == ".ipynb":
        raise ValueError(f"{path.name} is a notebook; make a program of it: jupyter nbconvert --to script {path.name}")
    loader = _Loader(f"_checked_{path.stem}", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = sys.modules[loader.name] = importlib.util.module_from_spec(spec)  # dataclasses look there for their own module
    module.__file__ = str(path)
    try:
        loader.tree = _without_training(ast.parse(source, str(path)), path)
        with mock.patch.multiple(sys, argv=[str(path)], path=[str(path.parent), *sys.path]):
            loader.exec_module(module)
    except SyntaxError as error:
        where = f"{Path(error.filename or path).name}" + (f", line {error.lineno}," if error.lineno else "")
        text = f": `{error.text.strip()}`" if error.text else ""
        raise ValueError(f"{where} is not valid Python ({error.msg}){text}") from error
    except (Exception, SystemExit) as error:
        cures = {
            ModuleNotFoundError: "Install it in this environment, or leave that import out.",
            FileNotFoundError: f"The current folder is {Path.cwd()}; run the check in the one that has the file.",
            SystemExit: 'It ended itself; put what is not the model under `if __name__ == "__main__":`.',
        }
        message = f"{path.name} does not import: {said(error, path)}. {cures.get(type(error), '')}"
        raise ValueError(message.rstrip(". ")) from error
    return module


def _without_training(tree: ast.Module, path: Path) -> ast.Module:
    """The file up to the first statement outside of all functions that trains, and the definitions after it."""
    inert = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom)
    training = {"backward"}

    def trains(node: ast.AST) -> bool:
        called = (n.func for n in ast.walk(node) if isinstance(n, ast.Call))
        return any((getattr(f, "attr", "") or getattr(f, "id", "")) in training for f in called)

    training |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and trains(node)}
    for i, node in enumerate(tree.body):
        if not isinstance(node, inert) and "__name__" not in ast.unparse(node) and trains(node):
            tree.body[i:] = [n for n in tree.body[i:] if isinstance(n, inert)]
            message = f"{path.name} trains when it is imported (line {node.lineno}); that and what follows was left out. "
            warnings.warn(message + 'Put it under `if __name__ == "__main__":`.', stacklevel=4)
            break
    return tree


def _find(module: ModuleType, path: Path, name: str | None) -> Any:
    """The model in a module, or the function or class that makes it."""
    things = vars(module)
    for wanted in [name] if name else ["model", "make_model"]:
        thing = things.get(wanted)
        if isinstance(thing, nn.Module) or inspect.isclass(thing) or inspect.isfunction(thing):
            return thing
    if name:
        raise ValueError(f"{path.name} has no model, function or class {name!r}")
    ranked = []
    for place, thing in enumerate(things.values()):
        if inspect.isclass(thing) and issubclass(thing, nn.Module):
            here, named = thing.__module__ == module.__name__, "GPT" in thing.__name__ or "LanguageModel" in thing.__name__
            learns = not {"targets", "target", "labels", "y"}.isdisjoint(inspect.signature(thing.forward).parameters)
            if learns or (here and named):
                ranked.append((here, learns, named, place, thing))
    if not ranked:
        raise ValueError(
            f"{path.name} has no model: no nn.Module named `model`, no function make_model(), no nn.Module class whose "
            f"forward takes targets. Write for example{EXAMPLE}"
        )
    return max(ranked, key=lambda entry: entry[:-1])[-1]


def _arguments(make: Callable[..., Any], module: ModuleType) -> dict[str, Any]:
    """What a class or function asks for: what the file calls so, or a small size, or the file's config."""
    arguments, things = {}, vars(module)
    for p in inspect.signature(make).parameters.values():
        if p.default is not p.empty or p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        kinds = [thing for key, thing in things.items() if inspect.isclass(thing) and key.endswith(("Config", "Args"))]
        kinds.sort(
            key=lambda kind: len(SMALL.keys() & {*dir(kind), *getattr(kind, "__annotations__", ())})
        )  # likeliest last
        kinds += [kind for kind in kinds if p.annotation in (kind, kind.__name__)]
        ready = [thing for thing in things.values() if isinstance(thing, tuple(kinds[-1:]))]
        if p.name in things and not isinstance(things[p.name], ModuleType):
            arguments[p.name] = things[p.name]
        elif p.name in SMALL:
            arguments[p.name] = SMALL[p.name]
        elif kinds and (p.annotation in kinds or p.name in ("config", "cfg", "args", "conf")):
            arguments[p.name] = ready[-1] if ready else _config(kinds[-1])
        else:
            raise TypeError(f"nothing is known of its argument {p.name!r}")
    return arguments


def _config(kind: type) -> Any:
    """A config, small if each whole number in it is a size that is known here, or else as it comes."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    needed = {f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING}
    whole = {f.name for f in fields if type(f.default) is int}
    wanted = needed | whole if whole <= SMALL.keys() else needed
    return kind(**{name: SMALL[name] for name in wanted & SMALL.keys()})


def _sizes(model: nn.Module, module: ModuleType, path: Path) -> tuple[int, int]:
    """vocab_size and block_size: of the model, its config or the file, or else as its tables are."""
    tables = [m.num_embeddings for m in model.modules() if isinstance(m, nn.Embedding)]
    squares = [b.shape[-1] for b in model.buffers() if b.dim() >= 2 and b.shape[-1] == b.shape[-2]]  # a mask
    alone = len(tables) == len(list(model.parameters())) == 1  # a bigram reads any length
    guesses = {"vocab_size": tables[:1], "block_size": squares[:1] + tables[1:2] + [8] * alone}
    config: Any = next((getattr(model, name) for name in ("config", "cfg") if hasattr(model, name)), {})
    if not isinstance(config, dict):
        names = [name for choices in SIZES.values() for name in choices[1].split()]
        config = {name: getattr(config, name, None) for name in names}
    places = [vars(model), config, vars(module)]
    sizes = []
    for size, least in (("vocab_size", 2), ("block_size", 1)):
        named = [place[name] for place in places for name in SIZES[size][1].split() if type(place.get(name)) is int]
        found = [n for n in named + guesses[size] if n >= least]
        if not found:
            raise ValueError(f"{path.name} does not say its {size}; write for example {size} = {SIZES[size][0]} in it")
        sizes.append(found[0])
    return sizes[0], sizes[1]


def said(error: BaseException, path: Path | None = None) -> str:
    """TypeError: 'int' object is not callable (my_gpt.py, line 12: `x = 3()`). The line is the learner's last one."""
    others = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith(others)]
    frames = [f for f in frames if path is None or f.filename == str(path)]
    where = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: `{frames[-1].line}`)" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300].rstrip('.')}{where}"
