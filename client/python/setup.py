"""What pyproject.toml can't say: in the repository messages are generated from proto/, and the licence is the root's.

An sdist has both, and the protos, so that nothing but setuptools is needed to build a wheel from it.
"""

import pathlib
import shutil
import sys

from setuptools import setup
from setuptools.command.sdist import sdist

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]

sys.path.insert(0, str(HERE))
from generate_protos import find_sources, generate  # noqa: E402


class SdistWithProtos(sdist):
    def make_release_tree(self, base_dir: str, files: "list[str]") -> None:
        super().make_release_tree(base_dir, files)
        shutil.copytree(find_sources() / "calib", pathlib.Path(base_dir, "proto", "calib"), dirs_exist_ok=True)


if find_sources() == REPOSITORY / "proto":
    shutil.copyfile(REPOSITORY / "LICENSE", HERE / "LICENSE")
    generate(HERE / "calibd" / "_proto")

setup(cmdclass={"sdist": SdistWithProtos})
