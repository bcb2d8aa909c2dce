"""The command line: minigpt train, plan, generate, chat, novelty, eval, info, explain, check, doctor, ladder."""

from collections.abc import Sequence
from typing import Any

import click

from . import __version__
from .commands.learn import check, doctor, explain, ladder
from .commands.measure import evaluate, info
from .commands.train import plan, train
from .commands.write import chat, generate, novelty
from .program import SETTINGS, run as run_command


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # click would call it a failure
            return None


@click.group(cls=_Commands, context_settings=SETTINGS)
@click.version_option(__version__, "-V", "--version", message="minigpt %(version)s")
def cli() -> None:
    """Train a small GPT on your own text, understand it, and take it anywhere.

    \b
    minigpt train                     learn from tiny Shakespeare, or from ./input.txt
    minigpt train my.txt              learn from your own text (files, folders, - for standard input)
    minigpt generate runs/my          let the model write
    """


for command in (train, plan, generate, chat, novelty, evaluate, info, explain, check, doctor, ladder):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """The program minigpt."""
    run_command(cli, arguments)
