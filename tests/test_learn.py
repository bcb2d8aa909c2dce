"""The pages to learn from: their examples answer what stands under them, their pictures are those that the code makes."""

import doctest
import itertools
import re
import sys
from pathlib import Path

import pytest

from minigpt import RUNGS

ROOT = Path(__file__).parent.parent
LEARN = ROOT / "docs/learn"
LEARNINGS = sorted(LEARN.glob("[1-9]-*.md"))
RUNG_PAGES = sorted(LEARN.glob("rung-*.md"))
PAGES = [*LEARNINGS, *RUNG_PAGES]

sys.path.insert(0, str(LEARN))
import pictures  # noqa: E402


def words(page: Path) -> str:
    return page.read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_example_answers_what_the_page_says(page, monkeypatch):
    monkeypatch.chdir(ROOT)  # where a reader types them
    examples = "\n".join(re.findall(r"```python\n(.*?)```", words(page), re.S))
    test = doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0)
    assert len(test.examples) >= 4
    assert sum(bool(example.want) for example in test.examples) >= 2
    seen: list[str] = []
    outcome = doctest.DocTestRunner(verbose=False).run(test, out=seen.append)
    assert outcome.failed == 0, "".join(seen)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_fits_a_screen_and_has_all_its_parts(page):
    text = words(page)
    assert len(text.splitlines()) <= 60
    parts = ["\n> ", "**Shapes.**", "**Try.**", "**Source.**", f"](pictures/{picture_of(page)})", "](../../minigpt/"]
    for part in parts:
        assert part in text or (part == "**Shapes.**" and page.stem == "rung-00-counting"), part


def picture_of(page: Path) -> str:
    return re.search(r"\]\(pictures/([^)]+)\)", words(page)).group(1)


def test_there_is_a_page_for_every_rung_and_for_each_of_the_five_learnings():
    assert [page.stem for page in RUNG_PAGES] == [
        "rung-00-counting",
        *(f"rung-{r.number:02}-{r.name}" for r in RUNGS.values()),
    ]
    assert len(LEARNINGS) == 5
    index = words(LEARN / "README.md")
    for page in PAGES:
        assert f"]({page.name})" in index, page.name
    for rung in RUNGS.values():
        assert f"| {rung.idea} |" in index


@pytest.mark.parametrize("chain", [LEARNINGS, RUNG_PAGES], ids=["learnings", "rungs"])
def test_every_page_leads_to_the_next_and_back(chain):
    for page, following in itertools.pairwise(chain):
        assert following.name in words(page).split("next: ")[-1]
        assert page.name in words(following).split("Before: ")[-1].split("·")[0]


def test_the_pictures_are_those_that_the_code_makes():
    made = pictures.pictures()
    assert sorted(made) == sorted(path.name for path in (LEARN / "pictures").glob("*"))
    assert sorted(made) == sorted(picture_of(page) for page in PAGES)
    for name, svg in made.items():
        assert svg == (LEARN / "pictures" / name).read_text(encoding="utf-8"), (
            f"{name} is old: python docs/learn/pictures.py"
        )


def test_the_commands_that_the_pages_name_exist(run_cli):
    """Every flag of every command on the pages is one that the program knows."""
    for page in [*PAGES, LEARN / "README.md"]:
        for command in re.findall(r"`((?:python ladder\.py|minigpt \w+)[^`]*)`", words(page).replace("\n", " ")):
            name = command.split()[1] if command.startswith("minigpt") else "ladder"
            help_text = run_cli(name, "--help").out
            for flag in re.findall(r"--[a-z-]+", command):
                assert flag in help_text, f"{page.name}: {command}"
            for rung in re.findall(r"--(?:from|to|rung|diff) (\w+)", command):
                assert rung in RUNGS or rung.isdigit(), f"{page.name}: {command}"
