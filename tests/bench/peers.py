"""The observe pass and a range search by the tools that people use today, one core: prints one JSON object.

The arrays are those of quant_bench's observe/float32/gaussian/16Mi and .../relu/16Mi: 16 Mi standard normal float32.
The histogram is what layer_histogram printed, which quant_bench's search/l2_greedy searches.
Needs NumPy and PyTorch (Debian: python3-numpy, python3-torch); what is missing is left out and named.
"""

import argparse
import json
import statistics
import sys
import time


def median_seconds(function, repetitions):
    """Seconds that `function` takes, median over the repetitions after one warm-up."""
    function()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def median_rate(function, elements, repetitions):
    """Elements per second of `function`."""
    return elements / median_seconds(function, repetitions)


def torch_search(torch, histogram, repetitions):
    """Seconds of calculate_qparams on this histogram by name, and of the search in it alone."""
    observer = torch.ao.quantization.HistogramObserver(bins=len(histogram["counts"]))
    observer.histogram.copy_(torch.tensor(histogram["counts"]))
    observer.min_val.copy_(torch.tensor(histogram["low"]))
    observer.max_val.copy_(torch.tensor(histogram["high"]))
    name = f"torch {torch.__version__} HistogramObserver"
    return {f"{name} calculate_qparams": median_seconds(observer.calculate_qparams, repetitions),
            f"{name} _non_linear_param_search": median_seconds(observer._non_linear_param_search, repetitions)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elements", type=int, default=16 << 20)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--histogram", help="a file with what layer_histogram printed")
    arguments = parser.parse_args()
    rates = {}
    seconds = {}
    missing = []
    try:
        import numpy
    except ImportError:
        print(json.dumps({"rates": rates, "seconds": seconds, "missing": ["numpy", "torch"]}))
        return 0
    gaussian = numpy.random.default_rng(1).standard_normal(arguments.elements, dtype=numpy.float32)
    arrays = {"gaussian": gaussian, "relu": numpy.maximum(gaussian, 0)}
    for name, array in arrays.items():
        rates[f"numpy.histogram 2048 bins/{name}"] = median_rate(
            lambda: numpy.histogram(array, 2048), array.size, arguments.repetitions)
    try:
        import torch
        from torch.ao.quantization import HistogramObserver, MinMaxObserver
    except ImportError:
        missing.append("torch")
    else:
        torch.set_num_threads(1)
        for name, array in arrays.items():
            tensor = torch.from_numpy(array)
            for observer_class in (HistogramObserver, MinMaxObserver):
                observer = observer_class()
                rates[f"torch {torch.__version__} {observer_class.__name__}/{name}"] = median_rate(
                    lambda: observer(tensor), array.size, arguments.repetitions)
        if arguments.histogram:
            with open(arguments.histogram, encoding="utf-8") as file:
                seconds = torch_search(torch, json.load(file), arguments.repetitions)
    print(json.dumps({"rates": rates, "seconds": seconds, "missing": missing}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
