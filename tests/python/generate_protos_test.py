"""Which protoc may generate the package's messages."""

import os
import pathlib
import subprocess
import sys

import pytest

GENERATE = pathlib.Path(__file__).resolve().parents[2] / "client" / "python" / "generate_protos.py"

# It says its version, and makes the folders of the code.
PROTOC = """#!/bin/sh
for argument; do
  case "$argument" in
    --version) echo "libprotoc {version}" ;;
    --python_out=*) mkdir -p "${{argument#*=}}/calib/v1" ;;
  esac
done
"""


@pytest.mark.parametrize(
    "version, taken",
    [("3.21.12", True), ("21.0", True), ("25.9", True), ("26.0", False), ("34.1", False), ("?", False)],
)
def test_versions_of_protoc(tmp_path, version, taken):
    protoc = tmp_path / "bin" / "protoc"
    protoc.parent.mkdir()
    protoc.write_text(PROTOC.format(version=version))
    protoc.chmod(0o755)
    out = tmp_path / "out"
    path = f"{protoc.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, GENERATE, out], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode == 0) == taken, done.stderr
    assert taken or "libprotoc" in done.stderr
    assert out.exists() == taken
