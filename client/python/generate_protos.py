#!/usr/bin/env python3
"""Generates the package calibd._proto from proto/calib/v1, with types.

usage: generate_protos.py OUT        such as client/python/calibd/_proto; what was there is replaced

Needs protoc (Debian's protobuf-compiler) 3.21, which its makers also call 21, to 25. Its imports name the module
`calib`, which would be a top-level package of its own: they are rewritten to calibd._proto.
"""

import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

PACKAGE = "calibd._proto"
HERE = pathlib.Path(__file__).resolve().parent
# An sdist has a copy of the protos; in the repository they are the contract itself.
SOURCES = [HERE / "proto", HERE.parents[1] / "proto"]

# The code of newer ones refuses the older protobuf packages that calibd works with: it asks for one of its own version.
NEWEST_PROTOC = 25
VERSION = re.compile(r"libprotoc (\d+)\.\d")

IMPORT = re.compile(r"^(from|import) (calib\.v1)\b", re.MULTILINE)


def find_sources() -> pathlib.Path:
    """The folder that holds calib/v1/*.proto."""
    for folder in SOURCES:
        if (folder / "calib" / "v1").is_dir():
            return folder
    raise FileNotFoundError(f"no calib/v1/*.proto in {' or '.join(map(str, SOURCES))}")


def check_version(protoc: str) -> None:
    """Raises OSError when its code would need a newer protobuf package than calibd does."""
    said = subprocess.run(
        [protoc, "--version"], check=True, stdout=subprocess.PIPE, universal_newlines=True
    ).stdout.strip()
    version = VERSION.match(said)
    if version is None:
        raise OSError(f"{protoc} --version says {said!r}, which is no version of protoc")
    if int(version.group(1)) > NEWEST_PROTOC:
        raise OSError(
            f"{protoc} is {said}, whose code works with protobuf packages of its own version or newer alone, and "
            f"calibd works with 3.21: put protoc {NEWEST_PROTOC} or older first on the PATH, or build from an sdist"
        )


def generate(out: pathlib.Path) -> None:
    """Replaces `out` by the generated package; raises without touching it when protoc is missing, too new or fails."""
    sources = find_sources()
    protos = sorted((sources / "calib" / "v1").glob("*.proto"))
    protoc = shutil.which("protoc")
    if protoc is None:
        raise FileNotFoundError("protoc is not there: install Debian's protobuf-compiler, or build from an sdist")
    check_version(protoc)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".proto-") as temporary:
        fresh = pathlib.Path(temporary, "package")
        fresh.mkdir()
        options = [f"--proto_path={sources}", f"--python_out={fresh}", f"--pyi_out={fresh}"]
        subprocess.run([protoc, *options, *map(str, protos)], check=True)
        for path in [*fresh.rglob("*.py"), *fresh.rglob("*.pyi")]:
            text = path.read_text(encoding="utf-8")
            path.write_text(IMPORT.sub(rf"\1 {PACKAGE}.\2", text), encoding="utf-8")
        for folder in [fresh, fresh / "calib", fresh / "calib" / "v1"]:
            (folder / "__init__.py").write_text("", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        fresh.rename(out)


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        generate(pathlib.Path(sys.argv[1]).resolve())
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"generate_protos.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
