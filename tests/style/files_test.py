#!/usr/bin/env python3
"""Every source file is small and narrow, has its include guard and names nothing that is unfinished."""

import os
import pathlib
import re
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
MOST_LINES = 400
MOST_COLUMNS = 120
SUFFIXES = (".cc", ".h", ".py", ".proto", ".sh", ".cmake", ".txt", ".js", ".css", ".html")
GENERATED = ("node_modules", "__pycache__", "_proto")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")


def source_files(root):
    """Source files below root, without what builds and tools leave there."""
    for directory, folders, files in os.walk(root):
        folders[:] = [f for f in folders if not f.startswith((".", "build")) and f not in GENERATED]
        for file in sorted(files):
            if file.endswith(SUFFIXES):
                yield pathlib.Path(directory, file)


def guard_of(name):
    return "CALIB_" + re.sub(r"[^A-Z0-9]", "_", name.upper()) + "_"


def problems_of(root, path):
    name = path.relative_to(root).as_posix()
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > MOST_LINES:
        yield f"{name}: {len(lines)} lines, more than {MOST_LINES}: split it by subject"
    if path.suffix == ".h":
        guard = guard_of(name)
        if lines[:2] != [f"#ifndef {guard}", f"#define {guard}"] or lines[-1] != f"#endif  // {guard}":
            yield f"{name}: its include guard is not {guard}, on the first two lines and the last"
    for number, line in enumerate(lines, 1):
        if path.suffix in (".cc", ".h", ".proto", ".py") and len(line) > MOST_COLUMNS:
            yield f"{name}:{number}: {len(line)} columns, more than {MOST_COLUMNS}"
    if path != pathlib.Path(__file__).resolve():
        for number, line in enumerate(lines, 1):
            if UNFINISHED.search(line):
                yield f"{name}:{number}: unfinished by its own words: {line.strip()}"


def problems(root):
    return [problem for path in source_files(root) for problem in problems_of(root, path)]


class TreeTest(unittest.TestCase):
    def test_the_tree_keeps_the_rules(self):
        self.assertGreater(len(list(source_files(ROOT))), 50, "too few files found: is this the repository?")
        found = problems(ROOT)
        self.assertEqual(found, [], "\n" + "\n".join(found))


class RulesTest(unittest.TestCase):
    def check(self, name, text):
        with tempfile.TemporaryDirectory() as directory:
            root = pathlib.Path(directory)
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")
            return problems(root)

    def test_size(self):
        self.assertEqual(self.check("quant/a.cc", "\n" * MOST_LINES), [])
        self.assertEqual(len(self.check("quant/a.cc", "\n" * (MOST_LINES + 1))), 1)
        self.assertEqual(self.check("build-x/a.cc", "\n" * (MOST_LINES + 1)), [])

    def test_columns(self):
        self.assertEqual(self.check("quant/a.cc", "/" * MOST_COLUMNS + "\n"), [])
        self.assertEqual(len(self.check("quant/a.cc", "\n" + "/" * (MOST_COLUMNS + 1) + "\n")), 1)

    def test_include_guard(self):
        guard = "CALIB_QUANT_BIN_MODEL_H_"
        good = f"#ifndef {guard}\n#define {guard}\n\n#endif  // {guard}\n"
        self.assertEqual(self.check("quant/bin_model.h", good), [])
        self.assertEqual(len(self.check("quant/other.h", good)), 1)

    def test_unfinished(self):
        self.assertEqual(len(self.check("quant/a.cc", "// TODO: later\n")), 1)
        self.assertEqual(self.check("quant/a.cc", "// Methods to do it.\n"), [])


if __name__ == "__main__":
    sys.exit(unittest.main())
