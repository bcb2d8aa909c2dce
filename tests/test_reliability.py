"""A few trials of every reliability suite; `make soak` runs all of them (docs/reliability/)."""

import json
import warnings
from pathlib import Path

import pytest

from reliability.suite import SEED, Broken, Suite, Trial, merged, run_full, run_part, run_quick
from reliability.suites import SUITES

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", SUITES)
def test_nothing_breaks(name, tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # as a person has it; the suite of tests makes errors of them
        result = run_quick(SUITES[name], tmp_path_factory.mktemp(name), SEED)
    print(f"seed {SEED}: {result['trials']} trials, {result['outcomes']}")
    assert not result["failures"], "\n".join(f"seed {SEED}, trial {f['number']}: {f['why']}" for f in result["failures"])


def failing(trial: Trial) -> str:
    trial.check(trial.number % 3 != 2, f"{trial.number} is one of the bad ones")
    if trial.number == 4:
        raise ZeroDivisionError("by nothing")
    (trial.folder / "left.txt").write_text("something")
    return f"drew {trial.rng.randrange(10)}"


SAMPLE = Suite("sample", "Nothing.", failing, full=lambda shared: int((shared / "n").read_text()), quick=4,
               prepare=lambda folder: (folder / "n").write_text("8") and None, together=3)  # fmt: skip


def test_a_suite_counts_what_fails_and_says_why(tmp_path):
    part = run_part(SAMPLE, 1, range(6), tmp_path)
    assert part["outcomes"]["FAILED"] == 3
    assert [failure["number"] for failure in part["failures"]] == [2, 4, 5]
    assert part["failures"][0]["why"] == "2 is one of the bad ones"
    assert "ZeroDivisionError: by nothing" in part["failures"][1]["why"]
    with pytest.raises(Broken):
        failing(Trial(2, None, tmp_path, tmp_path))


def test_a_trial_depends_on_seed_and_number_alone(tmp_path):
    together = run_part(SAMPLE, 1, range(2), tmp_path)["outcomes"]
    alone = merged([run_part(SAMPLE, 1, [number], tmp_path) for number in (1, 0)])["outcomes"]
    assert together == alone


def test_quick_trials_are_spread_evenly(tmp_path):
    assert [f["number"] for f in run_quick(SAMPLE, tmp_path, 1)["failures"]] == [2, 4]  # of 0, 2, 4, 6


def test_a_full_run_goes_on_where_it_was_stopped(tmp_path):
    parts = run_full(SAMPLE, tmp_path, 1, jobs=1)
    first, total = next(parts)
    parts.close()
    assert (first["trials"], total) == (3, 8)
    done = [part for part, _ in run_full(SAMPLE, tmp_path, 1, jobs=2)]
    assert merged(done)["trials"] == 8
    assert merged(done)["failed"] == 3
    lines = (tmp_path / "sample-1.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["first"] for line in lines) == [0, 3, 6]


def test_the_page_tells_of_every_result_and_none_has_failed():
    page = (ROOT / "docs/reliability/README.md").read_text()
    results = sorted((ROOT / "docs/reliability").glob("*.json"))
    assert len(results) >= 10
    for path in results:
        result = json.loads(path.read_text())
        assert result["failed"] == 0, path.stem
        assert result["claim"] == SUITES[path.stem].claim
        assert f"[{path.stem}]({path.name}) | {result['claim']} | {result['trials']:,}" in page
