"""The program minigpt: as a command, or as python -m minigpt."""

from .signals import quit_at_once


def main() -> None:
    """Run the program. From the first moment on a signal ends it without a traceback."""
    quit_at_once()
    from .cli import main as run_cli

    run_cli()


if __name__ == "__main__":
    main()
