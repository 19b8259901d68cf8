#!/usr/bin/env python3
"""Arrows point one way: checks every #include of the tree against the rules below.

A folder may include itself, the folders listed for it and the third-party libraries listed for it; the standard
library and the system's headers are free. CONTRIBUTING.md draws the same picture.
"""

import pathlib
import re
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Generated from proto/: "calib/v1/x.pb.h" are messages, "calib/v1/x.grpc.pb.h" service stubs.
MESSAGES, STUBS = "messages", "stubs"

# Third-party libraries, by how their includes begin.
LIBRARIES = {
    "absl/": "absl",
    "google/protobuf/": "protobuf",
    "google/rpc/": "grpc",
    "grpc/": "grpc",
    "grpc++/": "grpc",
    "grpcpp/": "grpc",
    "prometheus/": "prometheus",
    "httplib.h": "httplib",
    "rocksdb/": "rocksdb",
    "xxhash.h": "xxhash",
    "CLI/": "cli11",
    "nlohmann/": "json",
    "flatbuffers/": "flatbuffers",
    "onnx/": "onnx",
    "gtest/": "gtest",
    "gmock/": "gtest",
    "benchmark/": "benchmark",
    "simde/": "simde",
}

# folder: (project folders it may include beside itself, libraries it may include). The longest matching folder counts.
RULES = {
    "quant": ([], ["absl"]),
    "proto/codec": (["quant", MESSAGES], ["absl", "protobuf", "xxhash"]),
    "server/base": ([], ["absl"]),
    "server/store": (["server/base", "proto/codec", "quant", MESSAGES], ["absl", "protobuf", "rocksdb", "xxhash"]),
    "server/engine": (["server/store", "server/base", "proto/codec", "quant", MESSAGES], ["absl", "protobuf"]),
    "server/export": (
        ["proto/codec", "quant", MESSAGES],
        ["absl", "protobuf", "json", "flatbuffers", "onnx"],
    ),
    "server/rpc": (
        ["server/export", "server/engine", "server/store", "server/base", "proto/codec", "quant", MESSAGES, STUBS],
        ["absl", "protobuf", "grpc"],
    ),
    "server/web": (
        ["server/engine", "server/base", "proto/codec", "quant", MESSAGES],
        ["absl", "protobuf", "prometheus", "httplib"],
    ),
    "server/app": (
        ["server/web", "server/rpc", "server/engine", "server/store", "server/base", "quant", MESSAGES],
        ["absl", "protobuf", "grpc", "cli11"],
    ),
    "client/cpp": (["proto/codec", "quant", MESSAGES, STUBS], ["absl", "protobuf", "grpc"]),
    "client/cli": (["client/cpp", "proto/codec", "quant", MESSAGES], ["absl", "protobuf", "cli11", "json"]),
    # Tests may look at everything; nothing but tests may look at them.
    "tests": (
        ["quant", "proto/codec", "server", "client", MESSAGES, STUBS],
        sorted(set(LIBRARIES.values())),
    ),
}

INCLUDE = re.compile(r'^\s*#\s*include\s+(["<])([^">]+)[">]')


def owner(path):
    """The folder of RULES that a path belongs to, or None."""
    matches = [folder for folder in RULES if path.startswith(folder + "/")]
    return max(matches, key=len) if matches else None


def library_of(include):
    for prefix, library in LIBRARIES.items():
        if include.startswith(prefix):
            return library
    return None


def check_include(root, folder, quoted, include):
    """What is wrong with one #include in `folder`, or None."""
    allowed_folders, allowed_libraries = RULES[folder]
    if include.startswith("calib/v1/"):
        kind = STUBS if include.endswith(".grpc.pb.h") else MESSAGES
        if kind not in allowed_folders:
            return f"{folder}/ may not include the generated {kind}"
        proto = re.sub(r"(\.grpc)?\.pb\.h$", ".proto", include)
        return None if (root / "proto" / proto).is_file() else f"proto/{proto} is not there"
    library = library_of(include)
    if library:
        return None if library in allowed_libraries else f"{folder}/ may not use {library}"
    if not quoted:
        return None
    if not (root / re.sub(r"\.pb\.h$", ".proto", include)).is_file():
        return "no such file; includes are rooted at the repository"
    target = owner(include)
    if target is None:
        return f"{include} belongs to no folder that tests/style/layering_test.py knows"
    if any((target + "/").startswith(other + "/") for other in [folder, *allowed_folders]):
        return None
    return f"{folder}/ may not include {target}/"


def violations(root):
    """All of a tree's violations, as lines `file:line: include: what is wrong`, and how many includes were checked."""
    found, checked = [], 0
    for top in sorted({folder.split("/")[0] for folder in RULES}):
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in (".h", ".cc"):
                continue
            name = path.relative_to(root).as_posix()
            folder = owner(name)
            if folder is None:
                found.append(f"{name}: in no folder that tests/style/layering_test.py knows; add a rule for it")
                continue
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                match = INCLUDE.match(line)
                if not match:
                    continue
                checked += 1
                problem = check_include(root, folder, match[1] == '"', match[2])
                if problem:
                    found.append(f"{name}:{number}: {match[2]}: {problem}")
    return found, checked


class TreeTest(unittest.TestCase):
    def test_the_tree_keeps_the_rules(self):
        found, checked = violations(ROOT)
        self.assertGreater(checked, 100, "too few includes found: is this the repository?")
        self.assertEqual(found, [], "\n" + "\n".join(found))


class RulesTest(unittest.TestCase):
    """The checker finds what it is for, in a small tree with one planted include at a time."""

    def check(self, file, include):
        files = {
            "quant/range.h": "", "proto/codec/error.h": "", "proto/calib/v1/session.proto": "",
            "server/base/clock.h": "", "server/store/store.h": "", "server/store/record.proto": "",
            "server/engine/engine.h": "", "server/rpc/server.h": "", "server/web/page.h": "",
            "client/cpp/client.h": "", "client/cli/npy.h": "", "tests/support/random.h": "",
        }
        files[file] = f"#include <vector>\n#include {include}\n"
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            for name, text in files.items():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                (root / name).write_text(text, encoding="utf-8")
            return violations(root)[0]

    def test_allowed(self):
        for file, include in [
            ("quant/a.cc", '"quant/range.h"'),
            ("quant/a.cc", '"absl/status/status.h"'),
            ("quant/a.cc", "<immintrin.h>"),
            ("proto/codec/a.cc", '"calib/v1/session.pb.h"'),
            ("server/engine/a.cc", '"server/store/store.h"'),
            ("server/store/a.cc", '"server/store/record.pb.h"'),
            ("server/rpc/a.cc", '"calib/v1/session.grpc.pb.h"'),
            ("server/rpc/a.cc", "<grpcpp/grpcpp.h>"),
            ("server/web/a.cc", "<prometheus/registry.h>"),
            ("client/cli/a.cc", '"client/cpp/client.h"'),
            ("tests/rpc/a_test.cc", '"server/rpc/server.h"'),
        ]:
            with self.subTest(file=file, include=include):
                self.assertEqual(self.check(file, include), [])

    def test_refused(self):
        for file, include in [
            ("quant/a.cc", '"proto/codec/error.h"'),
            ("quant/a.cc", '"calib/v1/session.pb.h"'),
            ("quant/a.cc", "<google/protobuf/message.h>"),
            ("proto/codec/a.cc", '"calib/v1/session.grpc.pb.h"'),
            ("proto/codec/a.cc", '"server/base/clock.h"'),
            ("server/base/a.cc", '"quant/range.h"'),
            ("server/store/a.cc", '"server/engine/engine.h"'),
            ("server/engine/a.cc", '"server/rpc/server.h"'),
            ("server/engine/a.cc", "<grpcpp/grpcpp.h>"),
            ("server/engine/a.cc", "<rocksdb/db.h>"),
            ("server/engine/a.cc", "<onnx/onnx_pb.h>"),
            ("server/export/a.cc", '"server/engine/engine.h"'),
            ("server/rpc/a.cc", '"server/web/page.h"'),
            ("server/rpc/a.cc", '"httplib.h"'),
            ("server/web/a.cc", "<grpcpp/grpcpp.h>"),
            ("server/web/a.cc", '"server/rpc/server.h"'),
            ("client/cpp/a.cc", '"server/base/clock.h"'),
            ("client/cpp/a.cc", '"client/cli/npy.h"'),
            ("client/cli/a.cc", '"server/engine/engine.h"'),
            ("server/app/a.cc", '"tests/support/random.h"'),
            ("server/app/a.cc", '"client/cpp/client.h"'),
            ("quant/a.cc", '"range.h"'),
            ("proto/codec/a.cc", '"calib/v1/unknown.pb.h"'),
            ("server/new_folder/a.cc", "<string>"),
        ]:
            with self.subTest(file=file, include=include):
                found = self.check(file, include)
                self.assertEqual(len(found), 1, found)
                self.assertIn(file, found[0])


if __name__ == "__main__":
    sys.exit(unittest.main())
