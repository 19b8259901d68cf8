#!/usr/bin/env python3
"""Preset pytorch against torch.ao.quantization.MinMaxObserver itself, on random ranges: scale and zero point are equal.

usage: spec_differential.py PROBE   (tests/quant/spec_probe.cc). Exits with 77, which means skipped, without PyTorch
1.13.
"""

import json
import random
import struct
import subprocess
import sys
import warnings

SKIPPED = 77
CASES_PER_KIND = 60
SEED = 20261121

try:
    import torch
    from torch.ao.quantization.observer import MinMaxObserver
except ImportError:
    print("skipped: PyTorch is not installed")
    sys.exit(SKIPPED)
if not torch.__version__.startswith("1.13"):
    print("skipped: PyTorch", torch.__version__, "is not 1.13")
    sys.exit(SKIPPED)

TYPES = {"int8": torch.qint8, "uint8": torch.quint8, "int32": torch.qint32, "uint4": torch.quint4x2}
SCHEMES = {"symmetric": torch.per_tensor_symmetric, "affine": torch.per_tensor_affine}
GIVEN_CODES = {
    "int8": [(-127, 127), (-8, 7), (0, 127), (-100, 3)],
    "uint8": [(0, 15), (0, 200), (0, 254), (0, 1)],
    "int32": [(-1000, 1000), (0, 2**24)],
    "uint4": [],
}


def float32(x):
    return struct.unpack("f", struct.pack("f", x))[0]


def kinds():
    """Every type, scheme, reduced or not, given codes or not, that both sides have."""
    for name in TYPES:
        for scheme in SCHEMES:
            # torch has no zero point but 0 for symmetric quint4x2; calibd's uint4 follows quint8.
            if name == "uint4" and scheme == "symmetric":
                continue
            for codes in [None] + GIVEN_CODES[name]:
                for reduce in (False, True):
                    # Without given codes torch reduces 8-bit types only.
                    if reduce and codes is None and name not in ("int8", "uint8"):
                        continue
                    # Halved, these have one code.
                    if reduce and codes == (0, 1):
                        continue
                    yield name, scheme, codes, reduce


def observer(name, scheme, codes, reduce):
    low, high = codes if codes else (None, None)
    return MinMaxObserver(
        dtype=TYPES[name], qscheme=SCHEMES[scheme], reduce_range=reduce, quant_min=low, quant_max=high)


def ranges(rng, name, levels):
    """Random ranges of all magnitudes, some of which put the zero point on a tie."""
    def number():
        return rng.choice((-1, 1)) * 10 ** rng.uniform(-12, 30) if rng.random() < 0.9 else 0.0

    for i in range(CASES_PER_KIND):
        if i % 4 == 0:
            step = 2.0 ** rng.randint(-20, 20)
            low = -(rng.randint(0, min(levels, 2**20)) + 0.5) * step
            low, high = low, low + levels * step
        else:
            low, high = sorted((number(), number() if i % 4 == 1 else rng.uniform(-5, 5)))
        low, high = float32(low), float32(high)
        # torch overflows int32 when the range lies more below zero than above it.
        if name == "int32" and -low > high:
            low, high = -high, -low
        yield low, max(low, high)


def main(probe):
    rng = random.Random(SEED)
    warnings.simplefilter("ignore")
    cases, expected, refusals = [], [], 0
    for name, scheme, codes, reduce in kinds():
        try:
            low, high = observer(name, scheme, codes, reduce).quant_min, observer(name, scheme, codes, reduce).quant_max
        except NotImplementedError:  # symmetric, reduced quint8
            cases.append((name, scheme, codes, reduce, 0.0, 1.0))
            expected.append({"error": True})
            refusals += 1
            continue
        for least, greatest in ranges(rng, name, high - low):
            reference = observer(name, scheme, codes, reduce)
            reference(torch.tensor([least, greatest], dtype=torch.float32))
            scale, zero_point = reference.calculate_qparams()
            cases.append((name, scheme, codes, reduce, least, greatest))
            expected.append({"scale": float(scale[0]), "zero_point": int(zero_point[0])})
    lines = "".join(
        f"{name} {scheme} {int(reduce)} {codes[0] if codes else '-'} {codes[1] if codes else '-'} "
        f"{low.hex()} {high.hex()}\n"
        for name, scheme, codes, reduce, low, high in cases)
    answers = subprocess.run([probe], input=lines, capture_output=True, text=True, check=True, timeout=20).stdout
    answers = [json.loads(line) for line in answers.splitlines()]
    if len(answers) != len(cases):
        print(f"{len(answers)} answers to {len(cases)} cases")
        return 1
    differing = 0
    for case, answer, wanted in zip(cases, answers, expected):
        if "scale" in answer:
            answer["scale"] = float32(answer["scale"])
        if answer != wanted:
            differing += 1
            if differing <= 20:
                print(case, "gave", answer, "but torch has", wanted)
    print(f"{len(cases)} cases, {refusals} of them refusals, {differing} differ")
    return 1 if differing or len(cases) < 1000 or refusals == 0 else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
