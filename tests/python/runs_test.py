"""What is known of a run of elements, block by block, is what is known of all of them at once."""

from __future__ import annotations

import numpy as np
import pytest
from calibd import runs

ALPHABETS = {
    "positive": [1.5, 3e-42, 2.0**-126, 7.25, 1.0001],
    "negative": [-1.5, -3e-42, -8.0, -1.0001],
    "not negative": [0.0, 1.0, 2.5, 3e-42],
    "not positive": [0.0, -0.0, -1.0, -1e30],
    "both": [-2.0, 3.0, 0.5, -1.0001],
    "zeros": [0.0, -0.0],
    "bfloat16 alone": [1.0, -3.5, 2.0**100],
    "with NaN": [1.0, float("nan"), -2.0],
    "with infinities": [float("inf"), 2.0, float("-inf")],
    "not finite": [float("inf"), float("-inf"), float("nan")],
}


def words_of(values, form):
    bits = np.array(values, np.float32).view(np.uint32)
    return bits if form is runs.FLOAT32 else (bits >> 16).astype(np.uint16)


def expected(words, form):
    """By the numbers themselves, one after the other."""
    values = (words.astype(np.uint32) << form.shift).view(np.float32).astype(np.float64)
    bits = words.astype(np.int64) << form.shift
    finite = np.isfinite(values)
    order = [-(int(b) & 0x7FFFFFFF) if b & 0x80000000 else int(b) for b in bits[finite]]
    return runs.Run(
        len(order),
        int(np.isnan(values).sum()),
        int((values == np.inf).sum()),
        int((values == -np.inf).sum()),
        min(order, default=0),
        max(order, default=0),
        not any(int(b) & 0xFFFF for b in bits[finite]),
    )


@pytest.mark.parametrize("form", [runs.FLOAT32, runs.BFLOAT16], ids=["float32", "bfloat16"])
def test_blocks_add_up(form):
    random = np.random.default_rng(1)
    kinds = list(ALPHABETS)
    for _ in range(500):
        run, seen = runs.NOTHING, []
        for kind in random.choice(kinds, random.integers(1, 5)):
            words = words_of(random.choice(ALPHABETS[kind], random.integers(1, 6)), form)
            seen.append(words)
            run = runs.observe_run(words, form, run)
            assert run == expected(np.concatenate(seen), form), seen


@pytest.mark.parametrize("form", [runs.FLOAT32, runs.BFLOAT16], ids=["float32", "bfloat16"])
def test_rows_are_runs(form):
    random = np.random.default_rng(2)
    for kind, alphabet in ALPHABETS.items():
        words = words_of(random.choice(alphabet, (20, 6)), form)
        found = runs.observe_runs(words, form)
        assert found.tolist() == [[int(field) for field in expected(row, form)] for row in words], kind


def test_what_is_settled_stays():
    run = runs.observe_run(words_of([1.0], runs.FLOAT32), runs.FLOAT32, runs.NOTHING._replace(lossless=False))
    assert run == runs.Run(1, 0, 0, 0, 0x3F800000, 0x3F800000, False)
