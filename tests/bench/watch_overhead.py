"""What observing every module of a CNN adds to its forward pass: calibd.torch.watch, and PyTorch's HistogramObserver in
the same hooks. Prints one JSON object.

There are three of the CNN, on the same weights: bare, watched and with HistogramObservers; each batch goes through one
after the other, so that the machine's moods meet all alike. Times are CPU seconds, since the machine may be busy; those
of other threads are the watcher's. The C library keeps what is freed: how much of it would otherwise go back to the
system, to be taken and cleared anew in each pass, depends on which small block lies behind it, with hooks and without;
it moved both overheads by up to 400 ms. An overhead is the median over a repetition's batches, times their number, and
for the watcher all that it does besides; of repetitions, too, medians are quoted. Statistics go to a session in this
process, which merges them as a worker does: a network is no part of this.

Needs NumPy, PyTorch (Debian: python3-torch) and the package calibd (build/python).
"""

import argparse
import copy
import json
import os
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


def same_weights(model):
    """A copy of a model without its hooks, that has the same parameters and buffers."""
    shared = [*model.parameters(), *model.buffers()]
    return copy.deepcopy(model, {id(tensor): tensor for tensor in shared})


def add_observers(model, observer_class):
    """An observer of PyTorch's after every module."""
    def observe_with(observer):
        def hook(module, given, output):
            observer(output)
        return hook

    for module in model:
        module.register_forward_hook(observe_with(observer_class()))


def repetition(torch, calibd, model, batches):
    """CPU seconds that all batches take bare, and what watching and observing add, as a dictionary."""
    models = {name: same_weights(model) for name in ("bare", "watch", "histogram_observer")}
    add_observers(models["histogram_observer"], torch.ao.quantization.HistogramObserver)
    seconds = {name: [] for name in models}
    all_threads, this_thread = time.process_time(), time.thread_time()
    start = time.thread_time()
    watcher = calibd.torch.watch(models["watch"], Session(calibd.config.SessionConfig()), weights=False, progress=False)
    around = time.thread_time() - start
    with torch.no_grad():
        for batch in batches:
            for name, each in models.items():
                start = time.thread_time()
                each(batch)
                seconds[name].append(time.thread_time() - start)
    start = time.thread_time()
    watcher.close()
    around += time.thread_time() - start
    around += (time.process_time() - all_threads) - (time.thread_time() - this_thread)
    added = {name: len(batches) * statistics.median(one - bare for one, bare in zip(seconds[name], seconds["bare"]))
             for name in ("watch", "histogram_observer")}
    return {"bare": sum(seconds["bare"]), "watch": added["watch"] + around,
            "histogram_observer": added["histogram_observer"]}


def measure(torch, calibd, size, arguments):
    """One row: a CNN on images of this size."""
    model = make_cnn(torch, arguments.width)
    batches = [torch.randn(arguments.batch, 3, size, size) for _ in range(arguments.batches)]
    repetition(torch, calibd, model, batches[:2])  # warms up
    runs = [repetition(torch, calibd, model, batches) for _ in range(arguments.repetitions)]
    elements = sum(output.numel() for output in outputs_of(torch, model, batches[0])) * len(batches)
    return {
        "images": [arguments.batch, 3, size, size],
        "modules": len(model),
        "elements": elements,
        "bare_ms": 1e3 * statistics.median(run["bare"] for run in runs),
        "watch_overhead_ms": 1e3 * statistics.median(run["watch"] for run in runs),
        "histogram_observer_overhead_ms": 1e3 * statistics.median(run["histogram_observer"] for run in runs),
        "ratio": statistics.median(run["histogram_observer"] / run["watch"] for run in runs),
    }


def outputs_of(torch, model, batch):
    """What each module returns."""
    with torch.no_grad():
        for module in model:
            batch = module(batch)
            yield batch


def keep_freed_memory():
    """Starts this program anew if the C library would give freed memory back."""
    settings = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}
    if any(os.environ.get(name) != value for name, value in settings.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **settings})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 32], help="heights and widths of the images")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=32)
    parser.add_argument("--width", type=int, default=32, help="channels of the first convolution")
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    try:
        import torch
    except ImportError:
        print(json.dumps({"watch": [], "missing": ["torch"]}))
        return 0
    import calibd.config
    import calibd.torch

    torch.set_num_threads(1)
    torch.manual_seed(1)
    rows = [measure(torch, calibd, size, arguments) for size in arguments.sizes]
    print(json.dumps({"watch": rows, "missing": []}))
    return 0


if __name__ == "__main__":
    keep_freed_memory()
    sys.exit(main())
