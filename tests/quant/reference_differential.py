#!/usr/bin/python3
"""Compares the reference histograms and searches with live NumPy and PyTorch on random tensors.

Usage: reference_differential.py PROBE. Exits 77 when NumPy or PyTorch is not there, or is another version."""

import json
import subprocess
import sys
import unittest
import warnings

try:
    import numpy as np
    import torch
except ImportError as error:
    print("SKIPPED:", error)
    sys.exit(77)
if not torch.__version__.startswith("1.13") or not np.__version__.startswith("1."):
    print(f"SKIPPED: needs PyTorch 1.13 and NumPy 1, here are {torch.__version__} and {np.__version__}")
    sys.exit(77)

from torch.ao.quantization.observer import HistogramObserver  # noqa: E402

import reference_models as models  # noqa: E402

PROBE = ""


def ask(requests):
    """Sends requests, each (fields, float32 arrays, float64 arrays), to one run of the probe."""
    sent = []
    for fields, floats, doubles in requests:
        header = dict(fields, float32=[len(a) for a in floats], float64=[len(a) for a in doubles])
        sent.append(json.dumps(header).encode() + b"\n")
        sent += [np.asarray(a, "<f4").tobytes() for a in floats] + [np.asarray(a, "<f8").tobytes() for a in doubles]
    run = subprocess.run([PROBE], input=b"".join(sent), stdout=subprocess.PIPE, check=True, timeout=60)
    answers = [json.loads(line) for line in run.stdout.splitlines()]
    assert len(answers) == len(requests), (len(answers), len(requests))
    return answers


def tensor(rng):
    """A tensor of a random kind."""
    size = int(rng.choice([1, 2, 7, 100, 1000, 4000]))
    kind = rng.integers(9)
    scale = 10.0 ** rng.uniform(-3, 3)
    x = rng.standard_normal(size)
    if kind == 0:
        x = rng.standard_t(2, size)
    elif kind == 1:
        x = np.maximum(x, 0)
    elif kind == 2:
        x = np.round(x * 4) / 4
    elif kind == 3:
        x = np.full(size, rng.standard_normal())
    elif kind == 4:
        x = -np.abs(x) - 1
    elif kind == 5:
        x = rng.uniform(0.2, 0.9, size)
    elif kind == 6:
        x = x * 1e-3 + 100
    return (x * scale).astype(np.float32)


def histories(seed, count):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        steps = [tensor(rng) for _ in range(int(rng.integers(1, 6)))]
        # Scales that are not decades apart, so that resampling is met and the references don't take gigabytes.
        steps = [np.float32(s / max(np.abs(s).max(), 1e-30) * rng.uniform(0.5, 3)) for s in steps]
        spread = [float(s.max() - s.min()) for s in steps]
        if min(spread) > 0 and max(spread) > 100 * min(spread):
            continue
        yield steps


class Differential(unittest.TestCase):
    def compare_counts(self, expected, answer, note, tolerance=0.0):
        counts = np.array(answer["counts"])
        self.assertEqual(len(counts), len(expected), note)
        worst = np.abs(counts - expected).max()
        self.assertLessEqual(worst, tolerance, note)

    def test_numpy_counts(self):
        rng = np.random.default_rng(1)
        cases = []
        for _ in range(300):
            x = tensor(rng)
            low, high = sorted(np.float64(v) for v in rng.choice(x, 2)) if rng.random() < 0.5 else (x.min(), x.max())
            if rng.random() < 0.3:
                low, high = np.float64(low) - rng.random(), np.float64(high) + rng.random()
            if low == high:
                low, high = np.float64(low) - 0.5, np.float64(high) + 0.5
            cases.append((x, low, high, int(rng.choice([2, 100, 2048, 8001, 8093]))))
        answers = ask([({"op": "count", "rule": "mxnet", "low": float(low), "high": float(high), "bins": bins}, [x], [])
                       for x, low, high, bins in cases])
        for (x, low, high, bins), answer in zip(cases, answers):
            self.compare_counts(np.histogram(x, bins, (low, high))[0], answer, (low, high, bins))

    def test_histc_counts(self):
        rng = np.random.default_rng(2)
        cases = [(tensor(rng), int(rng.choice([2, 100, 2048]))) for _ in range(200)]
        cases = [(x, *sorted(float(v) for v in rng.choice(x, 2)), bins) for x, bins in cases]
        cases = [c for c in cases if c[1] < c[2]]
        answers = ask([({"op": "count", "rule": "pytorch", "low": low, "high": high, "bins": bins}, [x], [])
                       for x, low, high, bins in cases])
        for (x, low, high, bins), answer in zip(cases, answers):
            expected = torch.histc(torch.from_numpy(x), bins, min=low, max=high).numpy()
            self.compare_counts(expected, answer, (low, high, bins))

    def check_rule(self, rule, make, seed, count, bins, fields=None, check=None):
        """Feeds the same histories to the model and to the probe; both must have the same state."""
        cases = []
        for steps in histories(seed, count):
            model = make()
            try:
                for step in steps:
                    model.observe(step)
            except (models.Undefined, OverflowError, RuntimeError):
                continue
            cases.append((steps, model))
        self.assertGreater(len(cases), count / 2)
        answers = ask([(dict(fields or {}, op="observe", rule=rule, bins=bins), steps, []) for steps, _ in cases])
        for i, ((steps, model), answer) in enumerate(zip(cases, answers)):
            if answer.get("error") == "RESOURCE_EXHAUSTED":
                continue
            note = (rule, i, [(float(s.min()), float(s.max()), len(s)) for s in steps])
            self.assertEqual(answer["high"], float(model.high), note)
            if rule != "mxnet":
                self.assertEqual((answer["min"], answer["max"]), (float(model.low), float(model.high)), note)
            # Sums in another order: double against double, rounded to float32.
            tolerance = 0 if rule == "mxnet" else 1e-6 * float(np.abs(model.counts).max())
            self.compare_counts(model.counts, answer, note, tolerance)
            if check:
                check(model, answer, note)

    def test_megengine(self):
        def check(model, answer, note):
            for levels, found in zip((256, 15), answer["ranges"]):
                if model.low == model.high:
                    continue
                low, high = model.search(levels)
                self.assertEqual(found, [min(float(low), 0), max(float(high), 0)], note)

        self.check_rule("megengine", lambda: models.MegengineHistogram(256), 3, 25, 256,
                        {"levels": [256, 15], "arithmetic": "megengine"}, check)
        self.check_rule("megengine", lambda: models.MegengineHistogram(2048), 4, 60, 2048)
        self.check_rule("megengine", lambda: models.MegengineHistogram(100), 5, 60, 100)

    def test_pytorch_current(self):
        self.check_rule("pytorch_current", lambda: models.PytorchCurrentHistogram(2048), 6, 60, 2048)
        self.check_rule("pytorch_current", lambda: models.PytorchCurrentHistogram(100), 7, 60, 100)

    def test_mxnet(self):
        self.check_rule("mxnet", lambda: models.MxnetHistogram(8001), 8, 60, 8001)
        self.check_rule("mxnet", lambda: models.MxnetHistogram(101), 9, 60, 101)

    def test_pytorch(self):
        class Live:
            def __init__(self, bins):
                self.observer = HistogramObserver(bins=bins, dtype=torch.qint8)

            def observe(self, x):
                low, high = self.observer.min_val.item(), self.observer.max_val.item()
                if max(high, x.max()) - min(low, x.min()) > 20 * (high - low) > 0:
                    raise models.Undefined  # gigabytes
                self.observer(torch.from_numpy(x))
                self.low, self.high = self.observer.min_val.item(), self.observer.max_val.item()
                self.counts = self.observer.histogram.numpy()

        searched, other = 0, []

        def check(model, answer, note):
            nonlocal searched
            low, high = (float(v) for v in model.observer._non_linear_param_search())
            found = answer["ranges"][0]
            searched += 1
            if not np.allclose(found, [min(low, 0), max(high, 0)], rtol=1e-6, atol=0):
                other.append((note, found, low, high))

        fields = {"levels": [256], "arithmetic": "pytorch"}
        self.check_rule("pytorch", lambda: Live(2048), 10, 50, 2048, fields, check)
        self.check_rule("pytorch", lambda: Live(100), 11, 40, 100, fields, check)
        # PyTorch's errors are float32: where two are equal it stops by chance.
        print(f"greedy search: {len(other)} of {searched} ranges differ from PyTorch's", *other[:5], sep="\n  ")
        self.assertLessEqual(len(other), searched // 20)

    def test_entropies(self):
        rng = np.random.default_rng(12)
        cases = []
        for i in range(24):
            size = int(rng.choice([1, 30, 1000, 30000]))
            x = [rng.standard_normal, lambda n: rng.standard_t(2, n), lambda n: np.abs(rng.laplace(size=n)),
                 lambda n: np.round(rng.standard_normal(n) * 8)][i % 4](size)
            top = max(np.abs(x).max(), 1e-3)
            bins, levels = [(801, 255), (1023, 511), (257, 255), (301, 100)][i // 4 % 4]
            cases.append(("mxnet", -top, top, levels, np.histogram(x, bins, (-top, top))[0]))
            cases.append(("tensorrt", 0.0, top, [128, 256][i % 2], np.histogram(np.abs(x), 600, (0, top))[0]))
        answers = ask([({"op": op, "low": low, "high": high, "levels": levels}, [], [counts])
                       for op, low, high, levels, counts in cases])
        for (op, low, high, levels, counts), answer in zip(cases, answers):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                mxnet = op == "mxnet"
                divergences = (models.mxnet_divergences if mxnet else models.tensorrt_divergences)(counts, levels)
            least = divergences.min()
            note = (op, levels, len(counts), int(counts.sum()), least)
            width = (high - low) / len(counts)
            at = answer["threshold"] / width
            index = round(at - 0.5) - levels // 2 if mxnet else round(at) - 128
            if np.isinf(least):
                self.assertIsNone(answer["divergence"], note)
                self.assertEqual(index, 0 if mxnet else len(divergences) - 1, note)
                continue
            self.assertAlmostEqual(answer["divergence"], divergences[index], delta=1e-6 * divergences[index] + 1e-10)
            if mxnet:
                self.assertLessEqual(divergences[index], least * (1 + 1e-3) + 5e-5, note)
            else:
                self.assertEqual(index, np.flatnonzero(divergences <= least + 1e-12)[-1], note)


if __name__ == "__main__":
    torch.set_num_threads(1)
    PROBE = sys.argv.pop(1)
    unittest.main()
