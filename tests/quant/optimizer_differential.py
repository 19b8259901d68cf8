#!/usr/bin/env python3
"""Learned parameters against the optimizers of the PyTorch that is installed, on random trajectories.

    optimizer_differential.py OPTIMIZER_PROBE

Scale and zero point must be equal in every bit after every step. Ends with 77, which ctest takes as skipped, where
there is no PyTorch.
"""

import json
import os
import subprocess
import sys
import unittest

# PyTorch's kernels for AVX2 fuse multiplications and additions.
os.environ["ATEN_CPU_CAPABILITY"] = "default"
try:
    import numpy
    import torch
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

TRAJECTORIES = 400
MOST_STEPS = 60
LONG = 2500  # steps of one trajectory more, in which Adam's bias corrections fade out
CODES = [(-128, 127), (-127, 127), (-8, 7), (-2, 1), (-100, 50)]
SCALE_FLOOR = 2.0 ** -23  # of preset pytorch, as PyTorch's _LearnableFakeQuantize clamps


def probe(requests):
    """What calibd computes for each request."""
    lines = "".join(json.dumps(request) + "\n" for request in requests)
    process = subprocess.run([sys.argv[1]], input=lines, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in process.stdout.splitlines()]


class Trajectory:
    """Random options, parameters and gradients of one layer."""

    def __init__(self, rng, optimizer, steps, channels):
        self.optimizer = optimizer
        self.learning_rate = float(rng.choice([1e-3, 0.01, 0.1, 1.0, 10.0 ** rng.uniform(-6, 0)]))
        self.momentum = float(rng.choice([0.0, 0.9, 0.99, rng.uniform(0, 1)]))
        self.beta1 = float(rng.choice([0.9, 0.0, rng.uniform(0, 1)]))
        self.beta2 = float(rng.choice([0.999, 0.99, 0.0, rng.uniform(0, 1)]))
        self.epsilon = float(rng.choice([1e-8, 1e-6, 10.0 ** rng.uniform(-12, 0)]))
        self.affine = rng.random() < 0.7
        self.qmin, self.qmax = CODES[rng.integers(len(CODES))]
        self.grad_factor = float(rng.choice([1.0, 1 / numpy.sqrt(self.qmax * rng.integers(1, 10 ** 6))]))
        self.scale = (10.0 ** rng.uniform(-4, 2, channels)).astype(numpy.float32)
        self.zero_point = rng.uniform(self.qmin, self.qmax, channels).astype(numpy.float32)
        if not self.affine:
            self.zero_point[:] = 0  # a signed type's symmetric zero point
        self.gradients = self.random_gradients(rng, steps, channels)

    def random_gradients(self, rng, steps, channels):
        """Gradients of one size or of all sizes, with a drift or none; some are 0 or subnormal in float32."""
        shape = (steps, channels, 2)
        size = 10.0 ** rng.uniform(-6, 3, shape if rng.random() < 0.3 else (1, channels, 2))
        gradients = (rng.standard_normal(shape) + rng.uniform(-1, 1, (1, channels, 2))) * size
        gradients[rng.random(shape) < 0.05] = 0
        gradients[rng.random(shape) < 0.02] *= 1e-42
        return gradients

    def request(self):
        return {"optimizer": self.optimizer, "learning_rate": self.learning_rate, "momentum": self.momentum,
                "beta1": self.beta1, "beta2": self.beta2, "epsilon": self.epsilon, "affine": bool(self.affine),
                "qmin": self.qmin, "qmax": self.qmax, "grad_factor": self.grad_factor,
                "scale": self.scale.astype(float).tolist(), "zero_point": self.zero_point.astype(float).tolist(),
                "gradients": self.gradients.tolist()}

    def make_optimizer(self, params):
        if self.optimizer == "sgd":
            return torch.optim.SGD(params, lr=self.learning_rate, momentum=self.momentum)
        return torch.optim.Adam(params, lr=self.learning_rate, betas=(self.beta1, self.beta2), eps=self.epsilon)

    def expected(self):
        """Scales and zero points after each step, by PyTorch."""
        scale = torch.nn.Parameter(torch.tensor(self.scale))
        zero_point = torch.nn.Parameter(torch.tensor(self.zero_point))
        optimizer = self.make_optimizer([scale, zero_point] if self.affine else [scale])
        scales, zero_points = [], []
        for gradients in self.gradients:
            grad = torch.tensor((self.grad_factor * gradients).astype(numpy.float32))
            scale.grad, zero_point.grad = grad[:, 0].clone(), grad[:, 1].clone()
            optimizer.step()
            with torch.no_grad():
                scale.clamp_(min=SCALE_FLOOR)
                zero_point.clamp_(self.qmin, self.qmax)
            scales.append(scale.detach().numpy().copy())
            zero_points.append(zero_point.detach().numpy().copy())
        return numpy.array(scales), numpy.array(zero_points)

    def __str__(self):
        return ", ".join(f"{name} {value}" for name, value in self.request().items() if name != "gradients")


class OptimizerTest(unittest.TestCase):
    def compare(self, trajectories):
        """Returns the shares of steps that moved the scale and the zero point, and that were clamped."""
        moved = clamped = zero_points_moved = parameters = 0
        for trajectory, actual in zip(trajectories, probe(t.request() for t in trajectories), strict=True):
            scale, zero_point = trajectory.expected()
            what = str(trajectory)
            numpy.testing.assert_array_equal(numpy.float32(actual["scale"]), scale, what)
            numpy.testing.assert_array_equal(numpy.float32(actual["zero_point"]), zero_point, what)
            moved += (numpy.diff(scale, axis=0, prepend=[trajectory.scale]) != 0).sum()
            zero_points_moved += (numpy.diff(zero_point, axis=0, prepend=[trajectory.zero_point]) != 0).sum()
            clamped += (scale == numpy.float32(SCALE_FLOOR)).sum()
            parameters += scale.size
        return moved / parameters, zero_points_moved / parameters, clamped / parameters

    def random_trajectories(self, optimizer, seed):
        rng = numpy.random.default_rng(seed)
        return [Trajectory(rng, optimizer, int(rng.integers(1, MOST_STEPS)), int(rng.integers(1, 20)))
                for _ in range(TRAJECTORIES)]

    def check(self, shares):
        moved, zero_points_moved, clamped = shares
        self.assertGreater(moved, 0.3)
        self.assertGreater(zero_points_moved, 0.2)
        self.assertGreater(clamped, 0.01)

    def test_sgd(self):
        trajectories = self.random_trajectories("sgd", 1)
        self.assertGreater(sum(t.momentum == 0 for t in trajectories), 50)
        self.assertGreater(sum(t.momentum > 0 for t in trajectories), 50)
        self.check(self.compare(trajectories))

    def test_adam(self):
        self.check(self.compare(self.random_trajectories("adam", 2)))

    def test_long_adam(self):
        rng = numpy.random.default_rng(3)
        trajectory = Trajectory(rng, "adam", LONG, 3)
        trajectory.learning_rate, trajectory.beta1, trajectory.beta2 = 1e-3, 0.9, 0.999
        self.compare([trajectory])


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main(argv=sys.argv[:1])
