"""Builds the extension modules of `native`; everything else about the server is in pyproject.toml.

`native/extensions.py` is the list: which C files make which extension, and with which flags. Our C
is compiled with warnings as errors; the C that Cython writes goes under build/ and is compiled
without, because nobody here could mend a warning in it.
"""

from __future__ import annotations

import os
import runpy
from pathlib import Path
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CYTHON_DIRECTIVES = {"language_level": "3", "auto_pickle": False, "autotestdict": False}

LIST = runpy.run_path(str(ROOT / "native" / "extensions.py"))
OWN_C_FILES: dict[str, list[str]] = LIST["EXTENSIONS"]
C_FLAGS: list[str] = LIST["C_FLAGS"]
OWN_C_FLAGS = [*C_FLAGS, *LIST["STRICT_C_FLAGS"], "-Wall", "-Wextra", "-Werror"]
GENERATED_C_FLAGS = [flag for flag in C_FLAGS if not flag.startswith("-W")]


def list_extensions() -> list[Extension]:
    headers = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "native").glob("*.h"))]
    return [
        Extension(
            name,
            sources=[f"{name.replace('.', '/')}.pyx"],
            include_dirs=["native"],
            extra_compile_args=GENERATED_C_FLAGS,
            extra_link_args=LIST["LINK_FLAGS"],
            depends=[*headers, *c_files],
        )
        for name, c_files in OWN_C_FILES.items()
    ]


class BuildExtensions(build_ext):
    """Cython into build/, our C strictly and once each, then the link of both."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self) -> None:
        from Cython.Build import cythonize

        generated = cythonize(
            self.extensions,
            build_dir="build/cython",
            compiler_directives=CYTHON_DIRECTIVES,
            include_path=["."],
        )
        sources = {extension.name: extension.sources for extension in generated}
        for extension in self.extensions:
            extension.sources = sources[extension.name]
        own_c_files = {
            c_file for extension in self.extensions for c_file in OWN_C_FILES[extension.name]
        }
        self.own_objects = {c_file: self.compile_own(c_file) for c_file in sorted(own_c_files)}
        super().build_extensions()

    def compile_own(self, c_file: str) -> str:
        (own_object,) = self.compiler.compile(
            [c_file],
            output_dir=self.build_temp,
            include_dirs=["native"],
            extra_postargs=OWN_C_FLAGS,
        )
        return own_object

    def build_extension(self, ext: Any) -> None:
        ext.extra_objects = [self.own_objects[c_file] for c_file in OWN_C_FILES[ext.name]]
        super().build_extension(ext)


setup(ext_modules=list_extensions(), cmdclass={"build_ext": BuildExtensions})
