"""All suites by name, in the order of the promises."""

from . import hostile_files, hostile_text, kills, numbers, resuming, signals, space, surroundings
from .suite import Suite

MODULES = (kills, space, signals, resuming, hostile_files, hostile_text, surroundings, numbers)
SUITES: dict[str, Suite] = {suite.name: suite for module in MODULES for suite in module.SUITES}
