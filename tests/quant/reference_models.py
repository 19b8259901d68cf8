"""Direct evaluations of what frameworks do, from reference/numerics.md's formulas, on NumPy and PyTorch."""

import math

import numpy as np
import torch


class Undefined(Exception):
    """The framework itself fails."""


class MegengineHistogram:
    """MegEngine 1.13 HistogramObserver."""

    UPSAMPLE = 128

    def __init__(self, bins):
        self.bins, self.counts = bins, None

    def observe(self, x):
        low, high = x.min(), x.max()
        if self.counts is None:
            counts = np.histogram(x, self.bins, (low, high))[0]
        else:
            if self.low == self.high:
                raise Undefined
            low, high = min(low, self.low), max(high, self.high)
            cell = (self.high - self.low) / (self.bins * self.UPSAMPLE)
            per_bin = int(np.ceil((high - low) / (self.bins * cell)))
            if self.bins * per_bin > 2 ** 24:
                raise Undefined
            excess = per_bin * (self.bins * cell) - (high - low)
            high, low = high + excess / 2, low - excess / 2
            start = int(np.round((self.low - low) / cell))
            counts = np.histogram(x, self.bins, (low, high))[0].astype(np.float64)
            if low == self.low and high == self.high:
                counts += self.counts
            else:
                cells = np.zeros(self.bins * per_bin)
                upsampled = np.repeat(self.counts, self.UPSAMPLE)
                if cells[start:start + len(upsampled)].shape != upsampled.shape:
                    raise Undefined
                cells[start:start + len(upsampled)] = upsampled
                sums = np.cumsum(cells)[per_bin - 1::per_bin]
                counts = counts + np.diff(sums, prepend=0.0) / self.UPSAMPLE
        self.counts = np.asarray(counts, np.float32)
        self.low, self.high = np.float32(low), np.float32(high)

    def search(self, levels):
        width = (self.high - self.low) / self.bins
        begin, end = greedy(self.counts, levels, width, np.cumsum(self.counts), sum(self.counts))
        return self.low + np.float32(width * begin), self.low + np.float32(width * (end + 1))


def greedy(counts, levels, width, sums, total):
    """The search of numerics.md 3.5 in double."""

    def error(begin, end):
        cell = width * (end - begin + 1) / levels
        if cell == 0:
            return 0.0
        b0 = (np.arange(len(counts)) - begin) * width
        b1 = b0 + width
        c0, c1 = (np.clip(np.floor(b / cell), 0, levels - 1) for b in (b0, b1))
        density = counts.astype(np.float64) / width

        def part(u, v):
            return density * (v ** 3 - u ** 3) / 3

        half = cell / 2
        return float((part(b0 - (c0 + 0.5) * cell, half) + (c1 - c0 - 1) * part(-half, half)
                      + part(-half, b1 - (c1 + 0.5) * cell)).sum())

    alpha, beta, begin, end, best = 0.0, 1.0, 0, len(counts) - 1, math.inf
    while alpha < beta:
        next_alpha, next_beta = alpha + 1e-5, beta - 1e-5
        lower, upper = begin, end
        while lower < end and sums[lower] < next_alpha * total:
            lower += 1
        while upper > begin and sums[upper] > next_beta * total:
            upper -= 1
        candidate = (begin, end)
        if lower - begin > end - upper:
            candidate, alpha = (lower, end), next_alpha
        else:
            candidate, beta = (begin, upper), next_beta
        if candidate == (begin, end):
            continue
        found = error(*candidate)
        if found > best:
            break
        best, (begin, end) = found, candidate
    return begin, end


def linspace(low, high, steps):
    """torch.linspace of float32 as its scalar code has it; its vector code rounds as the CPU's vectors are wide."""
    step = np.float32(high - low) / np.float32(steps - 1)
    i = np.arange(steps)
    return np.where(i < steps // 2, low + step * i.astype(np.float32), high - step * (steps - i - 1).astype(np.float32))


class PytorchCurrentHistogram:
    """PyTorch's HistogramObserver since pull request 129387."""

    UPSAMPLE = 16

    def __init__(self, bins):
        self.bins, self.counts = bins, None

    def histc(self, x, low, high):
        # PyTorch 1.13 divides before it multiplies; the current one does not.
        if low == high:
            low, high = np.float32(low - 1), np.float32(high + 1)
        bins = ((x - low) * np.float32(self.bins) / (high - low)).astype(np.int64)
        return np.bincount(np.minimum(bins, self.bins - 1), minlength=self.bins).astype(np.float32)

    def observe(self, x):
        x = x[np.isfinite(x)]
        if x.size == 0:
            return
        low, high = x.min(), x.max()
        if self.counts is None:
            self.counts, self.low, self.high = self.histc(x, low, high), low, high
            return
        low, high = min(low, self.low), max(high, self.high)
        counts = self.histc(x, low, high)
        if low == self.low and high == self.high:
            counts = counts + self.counts
        elif self.low == self.high:
            counts = counts + self.histc(np.array([self.low]), low, high) * self.counts.sum()
        else:
            parts = linspace(self.low, self.high, self.bins * self.UPSAMPLE + 1)
            step = np.float32(self.high - self.low) / np.float32(self.bins * self.UPSAMPLE)
            middles = torch.from_numpy(parts[:-1] + np.float32(0.5) * step)
            edges = torch.from_numpy(linspace(low, high, self.bins + 1))
            bins = torch.clamp(torch.bucketize(middles, edges, right=True) - 1, 0, self.bins - 1)
            weights = torch.from_numpy(np.repeat(self.counts, self.UPSAMPLE)) / self.UPSAMPLE
            counts = counts + torch.bincount(bins, weights=weights, minlength=self.bins).numpy()
        self.counts, self.low, self.high = counts.astype(np.float32), low, high


class MxnetHistogram:
    """Apache MXNet 1.9 _LayerHistogramCollector."""

    def __init__(self, bins):
        self.bins, self.counts = bins, None

    def observe(self, x):
        threshold = max(abs(x.min()), abs(x.max()))
        if self.counts is None:
            self.counts = np.histogram(x, self.bins, (-threshold, threshold))[0]
            self.high = threshold
        elif threshold <= self.high:
            self.counts = self.counts + np.histogram(x, len(self.counts), (-self.high, self.high))[0]
        else:
            if self.high == 0:
                raise Undefined
            step = 2 * self.high / len(self.counts)
            added = int((threshold - self.high) // step + 1)
            high = added * step + self.high
            counts = np.histogram(x, len(self.counts) + 2 * added, (-high, high))[0]
            counts[added:len(counts) - added] += self.counts
            self.counts, self.high = counts, high


def mxnet_divergences(counts, quantized):
    """numerics.md 2.2 in double."""
    middle = len(counts) // 2
    result = []
    for half in range(quantized // 2, middle + 1):
        start, stop = middle - half, middle + half + 1
        p = counts[start:stop].astype(np.float64)
        s = p.copy()
        s[0] = 0
        p[0], p[-1] = counts[:start + 1].sum(), p[-1] + counts[stop:].sum()
        group = np.minimum(np.arange(len(p)) // (len(p) // quantized), quantized - 1)
        filled = np.bincount(group, s != 0, quantized)
        mean = np.divide(np.bincount(group, s, quantized), filled, out=np.zeros(quantized), where=filled > 0)
        q = np.where(p != 0, mean[group], 0)
        smoothed = []
        for d in (p, q):
            others = np.count_nonzero(d)
            loss = 1e-4 * (len(d) - others) / others if others else 1
            smoothed.append(None if loss >= 1 else np.where(d == 0, 1e-4, d - loss))
        if smoothed[1] is None:
            result.append(math.inf)
            continue
        p, q = (d / d.sum() for d in smoothed)
        result.append(float((p * np.log(p / q)).sum()))
    return np.array(result)


def tensorrt_divergences(counts, levels):
    """numerics.md 4.2."""
    bins = counts.astype(np.float64)
    bins[0] = bins[1]
    result = []
    for size in range(128, len(bins) + 1):
        group = np.digitize(range(size), np.linspace(0, size, levels + 1)) - 1
        p = bins[:size].copy()
        filled = np.bincount(group, p != 0, levels)
        mean = np.divide(np.bincount(group, p, levels), filled, out=np.zeros(levels), where=filled > 0)
        q = np.where(p != 0, mean[group], 0)
        p[-1] += bins[size:].sum()
        if q.sum() == 0 or np.any((p > 0) & (q == 0)):
            result.append(math.inf)
            continue
        p, q = p / p.sum(), q / q.sum()
        at = p > 0
        result.append(float((p[at] * np.log(p[at] / q[at])).sum()))
    return np.array(result)
