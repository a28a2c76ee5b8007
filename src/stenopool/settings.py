"""Settings of this machine, read from the environment (prefix `STENO_`).

Options of one transcription are not here: see `stenopool.decoding.options`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_cache_path
from pydantic import AfterValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from stenopool.errors import UsageError


class Settings(BaseSettings):
    """Each attribute is an environment variable: `STENO_MODELS_DIR`, `STENO_OFFLINE`, …"""

    model_config = SettingsConfigDict(
        env_prefix="STENO_", env_ignore_empty=True, use_attribute_docstrings=True
    )

    models_dir: Annotated[Path, AfterValidator(Path.expanduser)] = (
        user_cache_path("stenopool") / "models"
    )
    """Folder that pulled and registered models are kept in."""

    model: str = ""
    """The model where none is named. Empty is the one that was promoted, and `base` before that."""

    compiled_dir: Annotated[Path, AfterValidator(Path.expanduser)] = (
        user_cache_path("stenopool") / "compiled"
    )
    """Folder for what engines compile, so that they start faster; it may be deleted at any time."""

    offline: bool = False
    """Never reach the network: a model that is not here is an error."""

    threads: int = Field(default=0, ge=0)
    """Threads of the inference engine; 0 means one for each core that this process may use."""

    aligner: str = ""
    """Folder of a CTC model that finds the times of the words that Whisper writes; empty is none.
    See `docs/guides/ctc.md`."""

    ctc_precision: Literal["auto", "float32", "bfloat16", "int8"] = "auto"
    """What CTC models are multiplied in. `auto` is bfloat16 where the CPU has it, else float32."""

    attention: Literal["sdpa", "eager", "flash"] = "sdpa"
    """How the PyTorch engine computes attention: PyTorch's own choice (`sdpa`), written out
    (`eager`), or Flash Attention 2 (`flash`), which needs CUDA and 16 bits."""

    torch_precision: Literal["auto", "float32", "float16", "bfloat16", "int8", "int4"] = "auto"
    """Of the PyTorch engine's weights. `auto` is float16 on CUDA, else float32; `int4` is for CUDA,
    and on CUDA `int8` and `int4` need the package `bitsandbytes`."""

    torch_compile: bool = False
    """Let the PyTorch engine compile kernels of its own with `torch.compile`. The first windows
    then take a minute longer, and on CPUs a C++ compiler is needed."""

    database: str = ""
    """URL of the database for jobs: `sqlite:///FILE` or `postgresql://USER@HOST/NAME`. Empty is a
    SQLite file: in a folder's bucket itself (`.stenopool/jobs.sqlite`), for other buckets in the
    user's data folder."""

    idle_seconds: float = Field(default=60.0, ge=0, allow_inf_nan=False)
    """A worker process without work ends after this time, and its model is freed."""

    stall_seconds: float = Field(default=300.0, ge=1, allow_inf_nan=False)
    """A recording that does not get on so long ends its worker; the second time, it fails."""

    worker_memory_gb: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """Memory that a worker process may use; 0 is its share of four fifths of this machine's."""

    price_per_hour: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """What an hour of a worker costs, in any currency: `steno jobs` shows what each job cost."""

    history_days: float = Field(default=30.0, gt=0, allow_inf_nan=False)
    """Jobs that ended longer ago are forgotten; their documents stay."""

    webhook_secret: str = ""
    """What webhooks are signed with: `whsec_` and base64 of 24 to 64 bytes; several, separated by
    spaces, while they are exchanged. Without one no job can have a webhook."""

    allow_private_urls: bool = False
    """Let jobs be fetched from, and webhooks be sent to, addresses of the internal network too."""

    max_hours: float = Field(default=48.0, gt=0, allow_inf_nan=False)
    """Recordings that decode to more are refused, so that a small file cannot run for ever."""


@cache
def settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        UsageError: an environment variable has a value that it cannot have.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "STENO_" + "_".join(map(str, first["loc"])).upper()
        raise UsageError(
            f"the environment variable `{name}` is `{first['input']}`: {first['msg']}",
            do="Correct it or unset it",
        ) from error
