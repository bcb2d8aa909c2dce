"""The ladder: every step from counting characters to a GPT of today, trained, measured and shown.

Read the files in this order; each imports only files above it and the package.

    counting    what mere counting reaches: the ground floor
    climb       training every rung on the same text with the same budget
    picture     the ladder as a picture
    table       what a person sees of the climb
    compare     two rungs side by side
    lecture     the steps of the lecture with its recipes
    breaks      a GPT with one part broken
    program     what `python ladder.py` does

The models of the rungs are in minigpt/rungs.py.
"""
