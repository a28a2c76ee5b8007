"""What pyproject.toml cannot say yet: the compiled part.

One source for three kinds of CPUs; `engines/openvino/library.py` chooses among them. They are
optional, as a compiler for other CPUs refuses some: what is missing is an error when it is needed.
"""

from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("src/stenopool/engines/openvino/kernels")
FLAGS = {
    "_decoder_avx512": ["-march=x86-64-v4", "-mavx512vnni"],
    "_decoder_avx2": ["-march=x86-64-v3", "-Wno-psabi"],
    "_decoder": ["-Wno-psabi"],
}

setup(
    ext_modules=[
        Extension(
            f"stenopool.engines.openvino.{name}",
            [str(KERNELS / "decoder.c")],
            depends=[str(header) for header in KERNELS.glob("*.h")],
            extra_compile_args=["-O3", "-std=c11", "-pthread", *flags],
            extra_link_args=["-pthread"],
            optional=True,
        )
        for name, flags in FLAGS.items()
    ]
)
