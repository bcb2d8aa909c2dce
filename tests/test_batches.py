"""Batches: the right targets, every window once an epoch, and the same numbers on every machine."""

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from minigpt.batches import Batches, permuted, random_bits, sweep


def data_of(n):
    """Data whose tokens are their own positions."""
    return np.arange(n, dtype=np.uint32)


def starts_of(batches, n):
    """The first n windows, in the order of training."""
    steps = -(-n // batches.batch_size)
    return np.concatenate([batches.starts(step) for step in range(steps)])[:n]


# ---- what a batch is ---------------------------------------------------------------------------------------------------


def test_the_example_of_the_file_is_true():
    idx, targets = Batches(np.arange(10, 16), batch_size=1, block_size=4)[0]
    first = idx[0, 0].item()
    assert first in (10, 11)
    assert idx.tolist() == [[first, first + 1, first + 2, first + 3]]
    assert targets.tolist() == [[first + 1, first + 2, first + 3, first + 4]]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int64])
def test_a_target_is_the_token_after_its_input(dtype):
    """get_batch is not off by one."""
    data = np.random.default_rng(0).integers(0, 200, 500).astype(dtype)
    batches = Batches(data, batch_size=6, block_size=8)
    for step in range(20):
        idx, targets = batches[step]
        assert idx.shape == targets.shape == (6, 8)
        assert idx.dtype == targets.dtype == torch.int64
        assert torch.equal(idx[:, 1:], targets[:, :-1])
        for b, start in enumerate(batches.starts(step)):
            assert idx[b].tolist() == data[start : start + 8].tolist()
            assert targets[b].tolist() == data[start + 1 : start + 9].tolist()


def test_data_on_disk_serves_as_well(tmp_path):
    data_of(500).tofile(tmp_path / "ids")
    kept = np.memmap(tmp_path / "ids", np.uint32, mode="r")
    for ours, theirs in zip(Batches(data_of(500), 4, 8)[3], Batches(kept, 4, 8)[3], strict=True):
        assert torch.equal(ours, theirs)


def test_changing_a_batch_changes_no_data():
    data = data_of(100)
    idx, _ = Batches(data, 4, 8)[0]
    idx += 1
    assert np.array_equal(data, data_of(100))


# ---- which batch it is -------------------------------------------------------------------------------------------------


def test_a_batch_depends_on_seed_and_step_only():
    asked_before = Batches(data_of(1000), 4, 8, seed=3)
    for step in (0, 5, 999, 2, 7):
        asked_before[step]
    for ours, theirs in zip(asked_before[7], Batches(data_of(1000), 4, 8, seed=3)[7], strict=True):
        assert torch.equal(ours, theirs)


def test_another_seed_gives_other_batches():
    first = {tuple(Batches(data_of(10_000), 8, 8, seed).starts(0)) for seed in range(50)}
    assert len(first) == 50


@pytest.mark.parametrize("seed", [0, 1337, 2**63 - 1])
def test_every_seed_and_late_step_is_possible(seed):
    starts = Batches(data_of(1000), 4, 8, seed).starts(10**9)
    assert ((starts >= 0) & (starts + 8 < 1000)).all()


# data length, batch_size, block_size, seed, step -> where the windows begin
GOLDEN = {
    (1000, 4, 8, 0, 0): [415, 135, 343, 719],
    (1000, 4, 8, 0, 1): [215, 199, 47, 991],
    (1000, 4, 8, 1337, 0): [666, 194, 594, 834],
    (1000, 4, 8, 1337, 123456): [79, 703, 351, 967],
    (1048576, 6, 256, 1337, 0): [460418, 457602, 329090, 637314, 22146, 733314],
    (1048576, 6, 256, 1337, 5000): [221834, 469642, 24202, 408458, 436618, 644490],
    (16, 3, 8, 7, 2): [1, 7, 3],
}


@pytest.mark.parametrize(("case", "starts"), GOLDEN.items(), ids=map(str, GOLDEN))
def test_the_windows_of_a_seed_are_these_on_every_machine_for_ever(case, starts):
    """A run that was begun elsewhere, or with an older version, goes on with the same batches."""
    length, batch_size, block_size, seed, step = case
    assert Batches(data_of(length), batch_size, block_size, seed).starts(step).tolist() == starts


def test_the_random_bits_are_those_of_splitmix64():
    """The first outputs of the reference implementation for the seed 1234567."""
    bits = random_bits(np.full(5, 1234567, np.uint64), np.arange(5, dtype=np.uint64))
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    assert bits.tolist() == expected


# ---- epochs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("length", "block_size", "batch_size"), [(1000, 8, 4), (1003, 8, 7), (100, 3, 5), (17, 8, 2), (65, 1, 9)]
)
def test_an_epoch_visits_every_window_exactly_once(length, block_size, batch_size):
    batches = Batches(data_of(length), batch_size, block_size, seed=1)
    n = batches.windows_per_epoch
    assert n >= length // block_size - 1
    for epoch in starts_of(batches, 10 * n).reshape(10, n):
        ordered = np.sort(epoch)
        assert np.array_equal(ordered, ordered[0] + block_size * np.arange(n))


def test_epochs_differ_in_offset_and_order():
    batches = Batches(data_of(1000), 4, 8, seed=1)
    epochs = starts_of(batches, 30 * batches.windows_per_epoch).reshape(30, -1)
    offsets = epochs.min(axis=1)
    assert len(set(offsets)) > 5
    assert len({tuple(epoch - offset) for epoch, offset in zip(epochs, offsets, strict=True)}) == 30


def test_a_batch_may_begin_in_one_epoch_and_end_in_the_next():
    """However many windows are taken at a time, they come in the same order."""
    one_by_one = starts_of(Batches(data_of(100), 1, 8, seed=2), 60)
    for batch_size in (2, 7, 11, 25, 60):
        assert np.array_equal(starts_of(Batches(data_of(100), batch_size, 8, seed=2), 60), one_by_one)


@pytest.mark.parametrize("length", range(9, 33))
def test_windows_stay_inside_the_data_and_reach_both_ends(length):
    starts = starts_of(Batches(data_of(length), 16, 8, seed=5), 3000)
    assert starts.min() == 0  # the first token is an input
    assert starts.max() + 8 == length - 1  # the last token is a target


@pytest.mark.parametrize("length", [0, 1, 7, 8])
def test_data_shorter_than_a_window_is_refused_with_both_numbers(length):
    with pytest.raises(ValueError, match=rf"9 tokens; the data has {length}$"):
        Batches(data_of(length), 1, 8)


# ---- shuffling ---------------------------------------------------------------------------------------------------------


def order(n, key):
    return permuted(np.arange(n, dtype=np.uint64), n, np.full(n, key, np.uint64))


@pytest.mark.parametrize("key", [0, 1, 2**64 - 1])
def test_shuffling_is_a_bijection(key):
    for n in [*range(1, 301), 2**16 - 1, 2**16, 2**16 + 1, 999_983]:
        assert np.array_equal(np.sort(order(n, key)), np.arange(n))


def test_shuffling_gives_each_number_at_once_as_among_others():
    whole = order(300, 7)
    for place in range(0, 300, 17):
        assert permuted(np.array([place], np.uint64), 300, np.array([7], np.uint64)) == whole[place]


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_every_number_comes_first_about_equally_often(n):
    keys = random_bits(np.zeros(4000, np.uint64), np.arange(4000, dtype=np.uint64))
    for place in (0, n - 1):
        counts = np.bincount(permuted(np.full(4000, place, np.uint64), n, keys).astype(int), minlength=n)
        assert np.abs(counts - 4000 / n).max() < 5 * np.sqrt(4000 / n)  # five standard deviations


# ---- sweeping ----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 400), st.integers(1, 40), st.integers(1, 9))
def test_a_sweep_has_every_token_after_the_first_as_a_target_exactly_once(length, block_size, batch_size):
    targets = []
    for idx, following in sweep(data_of(length), block_size, batch_size):
        assert idx.shape == following.shape
        assert idx.shape[0] <= batch_size
        assert idx.shape[1] <= block_size
        assert torch.equal(following, idx + 1)
        targets += following.flatten().tolist()
    assert targets == list(range(1, length))


@given(st.integers(2, 2000), st.integers(1, 40), st.integers(1, 9), st.integers(1, 2000))
def test_a_short_sweep_reads_about_as_many_tokens_as_asked_for(length, block_size, batch_size, max_tokens):
    batches = sweep(data_of(length), block_size, batch_size, max_tokens)
    targets = [target for _, targets in batches for target in targets.flatten().tolist()]
    assert len(set(targets)) == len(targets)
    assert 0 < len(targets) <= max(max_tokens, block_size)
    assert len(targets) > min(max_tokens, length - 1) - block_size


@pytest.mark.parametrize("max_tokens", [80, 100, 300, 799])
def test_a_short_sweep_is_spread_evenly_from_end_to_end(max_tokens):
    starts = np.concatenate([idx[:, 0].numpy() for idx, _ in sweep(data_of(1001), 8, 4, max_tokens)])
    assert (starts[0], starts[-1]) == (0, 992)
    assert len(starts) == max_tokens // 8
    assert np.ptp(np.diff(starts)) <= 8


@pytest.mark.parametrize("max_tokens", [0, 999, 1000, 10**9])
def test_a_sweep_of_more_tokens_than_there_are_reads_all(max_tokens):
    assert sum(t.numel() for _, t in sweep(data_of(1000), 8, 4, max_tokens)) == 999
