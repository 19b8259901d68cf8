#!/usr/bin/env python3
"""Learned quantization and moving averages against the PyTorch that is installed, on random cases.

    learned_differential.py LEARNED_PROBE

Outputs and gradients of elements must be equal in every bit, sums of gradients up to float32's summation. Ends with 77,
which ctest takes as skipped, where there is no PyTorch.
"""

import json
import os
import subprocess
import sys
import unittest

# PyTorch's kernels for AVX2 fuse x / s + z into one operation, so an element in half a million rounds to another code.
os.environ["ATEN_CPU_CAPABILITY"] = "default"
try:
    import numpy
    import torch
    from torch.ao.quantization import MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

LEARNED_CASES = 300
EMA_CASES = 100
CODES = [(-128, 127), (-127, 127), (0, 255), (0, 127), (-8, 7), (0, 15), (-2, 1), (0, 1), (-32768, 32767)]


def probe(requests):
    """What calibd computes for each request."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    process = subprocess.run([sys.argv[1]], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in process.stdout.splitlines()]


def floats(array):
    """A float32 array as a flat list, exactly."""
    return numpy.asarray(array, numpy.float32).astype(float).ravel().tolist()


class LearnedCase:
    """A random tensor, parameters, and what PyTorch makes of them."""

    def __init__(self, rng):
        self.qmin, self.qmax = CODES[rng.integers(len(CODES))]
        self.shape = tuple(int(n) for n in rng.integers(1, 8, rng.integers(1, 5)))
        # PyTorch's gradients per channel fail on tensors of one dimension.
        per_tensor = rng.random() < 0.5 or len(self.shape) == 1
        self.axis = None if per_tensor else int(rng.integers(len(self.shape)))
        channels = 1 if self.axis is None else self.shape[self.axis]
        self.scale = (10.0 ** rng.uniform(-4, 3, channels)).astype(numpy.float32)
        self.zero_point = self.zero_points(rng, channels)
        self.grad_factor = float(rng.choice([1.0, 1 / numpy.sqrt(numpy.prod(self.shape) * self.qmax)]))
        self.x = self.values(rng)
        self.dy = rng.standard_normal(self.shape).astype(numpy.float32)

    def zero_points(self, rng, channels):
        """Symmetric ones, codes, between codes, in the middle between codes, and outside of the codes."""
        middle = (self.qmin + self.qmax) // 2
        codes = rng.integers(self.qmin, self.qmax + 1, channels).astype(float)
        kind = rng.integers(5)
        if kind == 0:
            codes[:] = 0
        elif kind == 2:
            codes = rng.uniform(self.qmin, self.qmax, channels)
        elif kind == 3:
            codes += 0.5
        elif kind == 4:
            codes = middle + (codes - middle) * 3
        return codes.astype(numpy.float32)

    def values(self, rng):
        """Values all over and beyond the codes, some exactly between two or just beside the middle."""
        place = [1] * len(self.shape)
        if self.axis is not None:
            place[self.axis] = -1
        scale = self.scale.reshape(place)
        zero_point = numpy.clip(self.zero_point, self.qmin, self.qmax).reshape(place)
        width = self.qmax - self.qmin
        codes = rng.uniform(self.qmin - 0.3 * width, self.qmax + 0.3 * width, self.shape)
        tied = rng.random(self.shape)
        codes = numpy.where(tied < 0.2, numpy.floor(codes) + 0.5, codes)
        codes = numpy.where((tied > 0.2) & (tied < 0.3), self.qmax + 0.5, codes)
        codes = numpy.where((tied > 0.3) & (tied < 0.4), self.qmin - 0.5, codes)
        x = ((codes - zero_point) * scale).astype(numpy.float32)
        beside = rng.integers(-1, 2, self.shape)
        infinities = numpy.where(beside > 0, numpy.inf, -numpy.inf).astype(numpy.float32)
        return numpy.where(beside == 0, x, numpy.nextafter(x, infinities))

    def request(self):
        outer = 1 if self.axis is None else int(numpy.prod(self.shape[:self.axis]))
        return {"kind": "learned", "per_tensor": self.axis is None, "qmin": self.qmin, "qmax": self.qmax,
                "grad_factor": self.grad_factor, "scale": floats(self.scale), "zero_point": floats(self.zero_point),
                "outer": outer, "inner": self.x.size // (outer * self.scale.size), "x": floats(self.x),
                "dy": floats(self.dy)}

    def expected(self):
        """Output and gradients by PyTorch: y, dx, dscale, dzero_point."""
        x, scale, zero_point = (torch.tensor(array, requires_grad=True)
                                for array in (self.x, self.scale, self.zero_point))
        if self.axis is None:
            y = torch._fake_quantize_learnable_per_tensor_affine(
                x, scale, zero_point, self.qmin, self.qmax, self.grad_factor)
        else:
            y = torch._fake_quantize_learnable_per_channel_affine(
                x, scale, zero_point, self.axis, self.qmin, self.qmax, self.grad_factor)
        y.backward(torch.tensor(self.dy))
        return y.detach().numpy(), x.grad.numpy(), scale.grad.numpy(), zero_point.grad.numpy()

    def sum_errors(self):
        """What float32 may be off by in dscale and dzero_point: a few roundings of terms that are as great as this."""
        axes = tuple(i for i in range(len(self.shape)) if i != self.axis)
        weight = numpy.abs(self.dy).sum(axis=axes, dtype=float).reshape(-1) * self.grad_factor
        return 2e-6 * weight * 1.5 * (self.qmax - self.qmin), 2e-6 * weight * self.scale

    def __str__(self):
        return (f"shape {self.shape} axis {self.axis} codes {self.qmin}..{self.qmax} scale {self.scale} "
                f"zero_point {self.zero_point} grad_factor {self.grad_factor}")


class LearnedTest(unittest.TestCase):
    def test_fake_quantize_and_gradients(self):
        rng = numpy.random.default_rng(20220713)
        cases = [LearnedCase(rng) for _ in range(LEARNED_CASES)]
        saturated = inside = 0
        for case, actual in zip(cases, probe(case.request() for case in cases), strict=True):
            y, dx, dscale, dzero_point = case.expected()
            what = str(case)
            self.assertTrue(numpy.array_equal(numpy.float32(actual["y"]), y.ravel()), what)
            self.assertTrue(numpy.array_equal(numpy.float32(actual["dx"]), dx.ravel()), what)
            scale_error, zero_point_error = case.sum_errors()
            self.assertTrue((numpy.abs(actual["dscale"] - dscale) <= scale_error).all(), what)
            self.assertTrue((numpy.abs(actual["dzero_point"] - dzero_point) <= zero_point_error).all(), what)
            saturated += (dx == 0).sum()
            inside += (dx != 0).sum()
        self.assertGreater(saturated, 1000)
        self.assertGreater(inside, 1000)


class MovingAverageTest(unittest.TestCase):
    def steps(self, rng):
        """Tensors of one run, of one shape, whose ranges move."""
        shape = [int(n) for n in rng.integers(1, 6, 3)]
        size = 10.0 ** rng.uniform(-30, 30)
        return [(rng.standard_normal(shape) * size * rng.lognormal() + rng.normal() * size).astype(numpy.float32)
                for _ in range(rng.integers(1, 12))]

    def compare(self, make_observer, channel_axis):
        rng = numpy.random.default_rng(7 + channel_axis)
        requests, expected = [], []
        for _ in range(EMA_CASES):
            constant = float(rng.choice([0.01, 0.1, 0.5, 1.0, rng.uniform(1e-3, 1)]))
            observer = make_observer(constant)
            request = {"kind": "ema", "weight": constant, "min": [], "max": []}
            for step in self.steps(rng):
                observer(torch.tensor(step))
                rows = numpy.moveaxis(step, channel_axis, 0).reshape(step.shape[channel_axis], -1)
                rows = rows if channel_axis > 0 else step.reshape(1, -1)
                request["min"].append(floats(rows.min(axis=1)))
                request["max"].append(floats(rows.max(axis=1)))
            requests.append(request)
            expected.append((observer.min_val.numpy().reshape(-1), observer.max_val.numpy().reshape(-1)))
        for actual, (least, greatest) in zip(probe(requests), expected, strict=True):
            numpy.testing.assert_array_equal(numpy.float32(actual["min"]), least)
            numpy.testing.assert_array_equal(numpy.float32(actual["max"]), numpy.maximum(least, greatest))

    def test_per_tensor(self):
        self.compare(lambda constant: MovingAverageMinMaxObserver(averaging_constant=constant), 0)

    def test_per_channel(self):
        for axis in (1, 2):
            self.compare(
                lambda constant: MovingAveragePerChannelMinMaxObserver(averaging_constant=constant, ch_axis=axis), axis)


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main(argv=sys.argv[:1])
