"""A first session with the installed package. usage: first_session.py ADDRESS SESSION"""

import importlib.metadata
import multiprocessing
import pathlib
import sys

import calibd
import numpy as np
from calibd import fork


def observe(address: str, name: str, batch: np.ndarray) -> None:
    with calibd.connect(address) as client:
        client.session(name).observe("model.fc1", batch)


def main() -> None:
    address, name = sys.argv[1:]
    assert "site-packages" in pathlib.Path(calibd.__file__).parts, calibd.__file__
    assert importlib.metadata.version("calibd") == calibd.__version__
    batches = np.random.default_rng(1).normal(size=(4, 64, 256)).astype(np.float32)
    with calibd.connect(address) as client:
        session = client.create_session(name)
        for batch in batches:
            session.observe("model.fc1", batch)
        start = "fork" if fork.SUPPORTED else "spawn"
        process = multiprocessing.get_context(start).Process
        child = process(target=observe, args=(address, name, batches[0]))
        child.start()
        child.join(60)
        assert child.exitcode == 0, child.exitcode
        session.flush(60)
        (layer,) = session.qparams(method="mse", dtype="int8")
        assert layer.count == batches.size + batches[0].size, layer.count
        rank = client.create_session(f"{name}.steps", world_size=1, rank=0)
        assert rank.step({"model.fc1": batches[0]}).layers["model.fc1"].max == batches[0].max()
    versions = " ".join(
        f"{package} {importlib.metadata.version(package)}" for package in ("grpcio", "protobuf", "numpy")
    )
    print(f"Python {sys.version.split()[0]}, {versions}: scale {layer.scale[0]}, {layer.sqnr_db:.2f} dB")


if __name__ == "__main__":
    main()
