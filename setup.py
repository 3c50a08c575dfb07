"""Adds the experiments to the package that is built; setup.cfg has everything else."""

import pathlib
import shutil

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithExperiments(build_py):
    """Copies experiments/ to segjax/experiments, so that an installed segjax has them too.

    An editable installation needs no copy: it finds the folder beside the package.
    """

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            source = pathlib.Path(__file__).resolve().parent / "experiments"
            target = pathlib.Path(self.build_lib) / "segjax" / "experiments"
            shutil.rmtree(target, ignore_errors=True)
            ignore = shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, target, ignore=ignore)


setup(cmdclass={"build_py": BuildWithExperiments})
