"""What a person can ask for on the command line: arguments become calls.

Nothing heavy is imported before a command runs.

    train       train and plan: from a text to a run
    write       generate, chat, novelty: a run that writes
    measure     eval, info: how well a run predicts, and what it is
    learn       explain, check, doctor, ladder: how it works, and whether it does
"""
