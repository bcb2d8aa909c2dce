"""Nothing is lost, nothing is trusted: suites that try to break what minigpt promises, in hundreds or thousands of ways.

    suite           what a suite is, and how it is run: from a seed, in parts, over several processes
    audit           notices when the package executes what it read
    trainings       small trainings in processes of their own, to be killed, starved and disturbed
    disturbances    how to strike a training at a chosen moment, and what must hold afterwards
    kills           SIGKILL at any time and at every step of a save; the order of what reaches the disk
    space           no space left, no permission, folders that vanish
    signals         Ctrl-C, SIGTERM, and many starts in one folder
    resuming        going on gives the same bits as never having stopped
    hostile_files   model folders that were damaged or made to harm
    hostile_text    texts and settings that nobody would give on purpose
    surroundings    locales, paths, clocks, terminals
    numbers         NaN and infinity, wherever they come from
    suites          all of them by name

`make test` runs a few trials of each (tests/test_reliability.py), `make soak` all of them, with the results in
docs/reliability/.
"""
