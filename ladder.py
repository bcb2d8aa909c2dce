"""Every step between bigram.py and gpt.py: one idea a rung, trained on the same text with the same budget, measured.

    python ladder.py                    all rungs, a few minutes on two processor cores
    python ladder.py --diff 5 6         what changed between two rungs
    python ladder.py --break mask       a GPT with a mistake, and how to recognise it
    python ladder.py --lecture          the losses of the lecture "Let's build GPT", reproduced

The models of the rungs stand in minigpt/rungs.py, each a few lines; docs/learn/ has a page for each. --help lists the rest.
"""

from minigpt.cli import ladder
from minigpt.program import run

if __name__ == "__main__":
    run(ladder)
