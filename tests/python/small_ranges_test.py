"""Small tensors observed together are what each is observed as alone."""

from __future__ import annotations

import numpy as np
from calibd.config import Observer
from calibd.observe import observe
from calibd.small_ranges import is_small, observe_small


def test_each_is_what_it_is_alone():
    rng = np.random.default_rng(1)
    special = np.array([0.0, -0.0, 1e-45, -1e-45, 3.4e38, -3.4e38, np.nan, np.inf, -np.inf], np.float32)
    tensors = [special[i : i + 1] for i in range(len(special))]
    for _ in range(500):
        shape = rng.integers(1, 6, rng.integers(0, 4))
        tensor = (rng.standard_normal(shape) * 10.0 ** rng.uniform(-44, 38)).astype(np.float32)
        if rng.random() < 0.3:
            tensor = np.where(rng.random(shape) < 0.3, rng.choice(special, shape), tensor).astype(np.float32)
        tensors.append(np.asarray(tensor).T)
    assert all(is_small(tensor) for tensor in tensors)
    observed = observe_small(tensors)
    assert sum(statistics is None for statistics in observed) > 10
    for tensor, statistics in zip(tensors, observed):
        alone = observe(tensor, Observer("minmax"))
        if statistics is None:
            assert not np.isfinite(tensor).all()
        else:
            assert statistics == alone
            assert np.signbit(statistics.min) == np.signbit(alone.min)
            assert np.signbit(statistics.max) == np.signbit(alone.max)
    assert observe_small([]) == []


def test_what_is_merged_into_one_stays_there():
    first, second = observe_small([np.float32([1, 2]), np.float32([3])])
    assert first is not None and second is not None
    first.merge(observe(np.array([np.nan, np.inf, np.inf, 5], np.float32), Observer("minmax")))
    assert (first.nan, first.positive_infinity, first.negative_infinity, first.count) == (1, 2, 0, 3)
    assert second == observe(np.array([3], np.float32), Observer("minmax"))


def test_what_is_not_small():
    for tensor in (np.ones(2), np.ones(2, ">f4"), np.ones(0, np.float32), np.ones(5000, np.float32), [1.0]):
        assert not is_small(tensor)
