"""What a person can ask for on the command line: arguments become calls.

    train       train and plan: from a text to a run
    use         generate, chat, novelty, eval, info: what a run can do, and what it is
    learn       explain, check, doctor, ladder: how it works, and whether it does
"""
