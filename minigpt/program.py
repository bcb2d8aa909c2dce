"""How a program of ours begins and ends: flags from fields and parameters, mistakes in plain words, exit codes.

Nothing heavy is imported before a command runs, so --help is there at once. A user's mistake ends in a sentence or two and
exit code 2 (how it was called) or 1 (the rest).

Next: console.py
"""

import atexit
import difflib
import errno
import inspect
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any, TextIO, get_args, get_type_hints

import click

from .config import shown
from .cores import others_computing
from .files import without_controls
from .signals import end_undisturbed, quit_in_order

DEVICE = "where to compute: auto (the best there is), cpu, cuda, cuda:1, mps"
UNKNOWN = "what to do with a character that the model never saw: error, drop"
SETTINGS: Any = {
    "help_option_names": ["-h", "--help"],
    "token_normalize_func": lambda name: name.replace("_", "-"),
    "max_content_width": 120,
}


def _age() -> float:
    """Seconds since this process began, torch's import included, where the system tells (Linux); else 0."""
    try:
        after_boot = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
        age = time.clock_gettime(time.CLOCK_BOOTTIME) - after_boot
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
    return age if 0 <= age < 10 else 0.0  # of another boot, or of what was this process before


_started = time.perf_counter() - _age()


def running_s() -> float:
    """Seconds since this program began."""
    return time.perf_counter() - _started


def peak_memory() -> int:
    """The most bytes of memory that this process has had; 0 where the system does not tell."""
    with suppress(OSError, StopIteration):  # Linux; ru_maxrss begins there with what the parent held
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


# ---- messages ----------------------------------------------------------------------------------------------------------


def say(message: str) -> None:
    """One line to stderr, never coloured, wrapped or marked up."""
    print(without_controls(message), file=sys.stderr, flush=True)


# ---- flags from fields -------------------------------------------------------------------------------------------------


def flags(*configs: type, leave_out: Sequence[str] = (), **defaults: Any) -> Callable[[Any], Any]:
    """Give a command a flag for each field of the configs. A flag that was not given arrives as None.

    defaults: what the command takes then, or in words what decides, where that is not the default of the field.
    """

    def add(command: Any) -> Any:
        for config in reversed(configs):
            hints = get_type_hints(config)
            for f in reversed(fields(config)):
                if f.name not in leave_out:
                    _flag(f, hints[f.name], defaults.get(f.name, f.default))(command)
        return command

    return add


def _flag(f: Any, hint: Any, default: Any) -> Callable[[Any], Any]:
    about, kind = f.metadata, (get_args(hint) or (hint,))[0]
    text = about["help"]
    if about["choices"]:
        text += f": {', '.join(about['choices'])}"
    if default is not None:
        text += f"  [default: {default}]"
    envvar = "MINIGPT_MAX_ITERS" if f.name == "max_iters" else None
    metavar = {int: "N", float: "X", str: "TEXT"}[kind]
    name = f"--{f.name.replace('_', '-')}"
    return click.option(name, type=Value(kind), default=None, metavar=metavar, help=text, envvar=envvar, show_envvar=True)


class Value(click.ParamType):
    """A number or a text. What is none stays as it is written: whoever checks them says what is wrong with all."""

    name = "value"

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Any:
        try:
            return self.kind(value)
        except ValueError:
            return value


# ---- values that cannot be -------------------------------------------------------------------------------------------


@contextmanager
def usage():
    """Values that cannot be: the fault is in how the program was called."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def one_of(name: str, value: str, allowed: Sequence[str]) -> str:
    """The value, if it is among the allowed ones. Raises a usage error that names them."""
    if value not in allowed:
        close = difflib.get_close_matches(str(value), allowed, 1)
        hint = f" Did you mean {close[0]}?" if close else ""
        raise click.UsageError(f"{name} is {shown(value)}; it must be {', '.join(allowed[:-1])} or {allowed[-1]}.{hint}")
    return value


@contextmanager
def or_drop():
    """An unknown character: this command has a flag for that, and says so."""
    from .tokenizer import UnknownCharacter

    try:
        yield
    except UnknownCharacter as error:
        raise ValueError(f"{error}, or use --unknown drop") from None


def choose_device(name: str) -> str:
    """A device that exists. Raises a usage error naming those that there are."""
    import torch

    from .trainer import best_device

    if name == "auto":
        return best_device()
    there = ["cpu"] + [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["mps"] * torch.backends.mps.is_available()
    if name == "cuda" and len(there) > 1 and "cuda:0" in there:
        return name
    if name not in there:
        raise click.UsageError(
            f"there is no device {shown(name)} here; there is {', '.join(there)}, and auto takes the best"
        )
    if name.startswith("cuda:"):
        torch.cuda.set_device(name)
    return name


def compile_first(device: str = "cpu") -> None:
    """Compile native.c, if it was not yet and computes there, and say so: now, and not while somebody measures time."""
    from .native_engine import NoCompiler, library, needs_compiling

    if device == "cpu" and needs_compiling():
        say("Compiling what computes, for this processor; that takes some seconds, once.")
        try:
            library()
        except NoCompiler as error:
            say(f"It will be slower: {error}.")


def training_device(name: str) -> str:
    """A device that exists and computes what it should: that is tried before its first training, and remembered.

    Raises ValueError for a device that computes wrongly.
    """
    device = choose_device(name)
    if device == "cpu":
        return device
    import torch

    from .doctor import first_look

    verdict = first_look(torch.device(device))
    reasons = " ".join(verdict.reasons)
    if verdict.answer == "unfit" and not os.environ.get("MINIGPT_ANY_DEVICE"):
        raise ValueError(
            f"{device} computes wrongly here. {reasons} Train with --device cpu. After an update of torch or of the driver, "
            f"minigpt doctor --device {device} looks again; MINIGPT_ANY_DEVICE=1 takes it as it is"
        )
    if reasons:
        say(f"{device}, with limits: {reasons}" if verdict.answer == "limited" else f"{device}, against advice: {reasons}")
    return device


# ---- starting and ending -----------------------------------------------------------------------------------------------


class Messages:
    """A stream of messages. Where nobody can be told any more, because a pipe is broken, a disk full or a terminal gone,
    work goes on in silence.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError):
            self.stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def run(command: Any, arguments: Sequence[str] | None = None) -> None:
    """Run a command and end the process: 0 done, 1 failed, 2 called wrongly, 130 interrupted, 143 terminated."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever called
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):  # what cannot be shown, or read, must not end a training, or a chat
            stream.reconfigure(errors="surrogateescape" if name == "stdin" else "replace")
            if name == "stdout" and not stream.isatty() and "PYTHONIOENCODING" not in os.environ:
                stream.reconfigure(
                    encoding="utf-8", errors="replace", newline="\n"
                )  # a file gets what a model wrote, wherever it runs
    if not isinstance(sys.stderr, Messages):
        sys.stderr = Messages(sys.stderr)
    if others_computing():
        # Let torch's threads wait for each other 1000 turns, not 300,000: the ones that wait would take the time of those
        # that are waited for. Read when torch is loaded; docs/decisions.md has figures.
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    atexit.register(end_undisturbed)
    warnings.showwarning = lambda message, *_, **__: print(f"Warning: {message}", file=sys.stderr)
    try:
        with quit_in_order():
            code = command.main(arguments, standalone_mode=False)
            sys.stdout.flush()
    except click.ClickException as error:
        context = getattr(error, "ctx", None)
        called = Path(sys.argv[0]).name
        path = context.command_path if context else called if called == f"{command.name}.py" else "minigpt"
        print(f"{path}: {error.format_message()}\nTry '{path} --help'.", file=sys.stderr)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        print("\nInterrupted.", file=sys.stderr)
        code = 130
    except (ValueError, ArithmeticError, OSError, MemoryError, RuntimeError) as error:
        code = 0 if _nobody_reads(error) else 1
        message = _explain(error)
        if code and (os.environ.get("MINIGPT_DEBUG") or not message):
            raise
        if code:
            print(f"minigpt: {without_controls(message)}", file=sys.stderr)
    finally:
        _let_go(sys.stdout)
    sys.exit(code)


def _nobody_reads(error: BaseException) -> bool:
    """True if whoever read our output has gone, as after `| head`: that is no failure. Windows has another name for it."""
    windows = os.name == "nt" and isinstance(error, OSError) and error.errno == errno.EINVAL and not error.filename
    return windows or isinstance(error, BrokenPipeError)


def _let_go(stream: TextIO) -> None:
    """Throw away what could not be written, so that Python does not try it again, and fail, when it ends."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _explain(error: BaseException) -> str:
    """A mistake or a misfortune in a sentence; nothing for what can only be a fault of this program."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    signs = ("out of memory", "not enough memory", "can't allocate memory")
    if isinstance(error, MemoryError) or any(sign in str(error) for sign in signs):
        return "the memory is not enough for this; make batch_size, n_embd or block_size smaller"
    return "" if isinstance(error, RuntimeError) else str(error)


def program(function: Callable[..., None]) -> None:
    """Run a function as a program whose flags are its parameters: main(max_iters=100) -> --max-iters 100."""
    parameters: list[click.Parameter] = []
    hints = get_type_hints(function)
    for name, parameter in inspect.signature(function).parameters.items():
        kind = (get_args(hints[name]) or (hints[name],))[0]
        envvar = "MINIGPT_MAX_ITERS" if name == "max_iters" else None
        flag, default = f"--{name.replace('_', '-')}", parameter.default
        parameters.append(click.Option([flag], type=kind, default=default, envvar=envvar, show_default=True))
    name = Path(sys.argv[0]).name
    run(click.Command(name, callback=function, params=parameters, help=function.__doc__, context_settings=SETTINGS))
