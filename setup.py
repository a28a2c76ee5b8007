"""What pyproject.toml cannot say yet: the compiled part.

The same sources for five kinds of CPUs; `engines/openvino/library.py` chooses among them. They are
optional, as a compiler for other CPUs refuses some: what is missing is an error when it is needed.
"""

from pathlib import Path

from setuptools import Extension, setup

KERNELS = Path("src/stenopool/engines/openvino/kernels")
AVX2 = ["-march=x86-64-v3", "-Wno-psabi"]
AVX512 = ["-march=x86-64-v4", "-mavx512vnni"]
FLAGS = {
    "_kernels_amx": [*AVX512, "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
    "_kernels_avx512": AVX512,
    "_kernels_avxvnni": [*AVX2, "-mavxvnni"],
    "_kernels_avx2": AVX2,
    "_kernels": ["-Wno-psabi"],
}

setup(
    ext_modules=[
        Extension(
            f"stenopool.engines.openvino.{name}",
            [str(source) for source in sorted(KERNELS.glob("*.c"))],
            depends=[str(header) for header in KERNELS.glob("*.h")],
            # Python's own flags have -fwrapv, which makes the products slower by a sixth.
            extra_compile_args=["-O3", "-fno-wrapv", "-std=gnu11", "-pthread", *flags],
            extra_link_args=["-pthread"],
            optional=True,
        )
        for name, flags in FLAGS.items()
    ]
)
