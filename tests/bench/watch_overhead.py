"""What observing every module of a CNN adds to its forward pass: calibd.torch.watch, and PyTorch's HistogramObserver in
the same hooks. Prints one JSON object.

Each repetition runs the same batches bare, watched and with HistogramObservers, one after the other. Times are CPU
seconds of this process, all its threads, since the machine may be busy; overheads are taken repetition by repetition
and medians quoted. Statistics go to a session in this process, which merges them as a worker does: a network is no
part of this.

Needs NumPy, PyTorch (Debian: python3-torch) and the package calibd (build/python).
"""

import argparse
import json
import statistics
import sys
import time


class Session:
    """Takes statistics as a calibd.Session does, without a server."""

    def __init__(self, config):
        self.config = config
        self.layers = {}

    def describe(self):
        return self

    def observe_statistics(self, layer, found):
        if layer in self.layers:
            self.layers[layer].merge(found)
        else:
            self.layers[layer] = found


def make_cnn(torch, width):
    """Eight convolutions with batch norm and ReLU, as small image classifiers have them."""
    nn = torch.nn
    channels = [3, width, width, 2 * width, 2 * width, 4 * width, 4 * width, 8 * width, 8 * width]
    layers = []
    for index, (before, after) in enumerate(zip(channels, channels[1:])):
        stride = 2 if index in (2, 4, 6) else 1
        layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8 * width, 10)).eval()


def seconds_of(torch, model, batches):
    """Of the forward passes, as the model is."""
    with torch.no_grad():
        start = time.process_time()
        for batch in batches:
            model(batch)
        return time.process_time() - start


def seconds_watched(torch, calibd, model, batches):
    """With calibd.torch.watch, until the session has all statistics."""
    session = Session(calibd.config.SessionConfig())
    start = time.process_time()
    with calibd.torch.watch(model, session, weights=False, progress=False):
        seconds_of(torch, model, batches)
    return time.process_time() - start


def seconds_with_observers(torch, observer_class, model, batches):
    """With an observer of PyTorch's after every module."""
    def observe_with(observer):
        def hook(module, given, output):
            observer(output)
        return hook

    handles = [module.register_forward_hook(observe_with(observer_class())) for module in model]
    seconds = seconds_of(torch, model, batches)
    for handle in handles:
        handle.remove()
    return seconds


def measure(torch, calibd, size, arguments):
    """One row: a CNN on images of this size."""
    model = make_cnn(torch, arguments.width)
    batches = [torch.randn(arguments.batch, 3, size, size) for _ in range(arguments.batches)]
    runs = {
        "bare": lambda: seconds_of(torch, model, batches),
        "watch": lambda: seconds_watched(torch, calibd, model, batches),
        "histogram_observer": lambda: seconds_with_observers(
            torch, torch.ao.quantization.HistogramObserver, model, batches),
    }
    seconds = {name: [] for name in runs}
    for repetition in range(arguments.repetitions + 1):
        for name, run in runs.items():
            taken = run()
            if repetition:  # the first one warms up
                seconds[name].append(taken)
    overheads = {name: [taken - bare for taken, bare in zip(seconds[name], seconds["bare"])]
                 for name in ("watch", "histogram_observer")}
    elements = sum(output.numel() for output in outputs_of(torch, model, batches[0])) * len(batches)
    return {
        "images": [arguments.batch, 3, size, size],
        "modules": len(model),
        "elements": elements,
        "threads": torch.get_num_threads(),
        "bare_ms": 1e3 * statistics.median(seconds["bare"]),
        **{f"{name}_overhead_ms": 1e3 * statistics.median(values) for name, values in overheads.items()},
        "ratio": statistics.median(observer / watch for observer, watch in zip(
            overheads["histogram_observer"], overheads["watch"])),
    }


def outputs_of(torch, model, batch):
    """What each module returns."""
    with torch.no_grad():
        for module in model:
            batch = module(batch)
            yield batch


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 32], help="heights and widths of the images")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=32)
    parser.add_argument("--width", type=int, default=32, help="channels of the first convolution")
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        print(json.dumps({"watch": [], "missing": ["torch"]}))
        return 0
    import calibd.config
    import calibd.torch

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    rows = [measure(torch, calibd, size, arguments) for size in arguments.sizes]
    print(json.dumps({"watch": rows, "missing": []}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
