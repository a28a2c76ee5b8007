"""One tree of errors. Each says what happened and what to do, and has a code that never changes.

StenoError
├── UsageError              exit 2   the request itself is wrong
│   ├── UnknownName                  no such model, language, format or engine
│   ├── Busy                         too much is waiting already (transient)
│   ├── UnsupportedOption            this model or algorithm cannot honour that option
│   ├── ResumeRefused                what goes on must be what was begun
│   └── TextDoesNotFit               a text that is to be aligned is not of this recording
├── InputError              exit 3   this recording cannot be transcribed
│   ├── InputNotFound
│   ├── InputNotAFile
│   ├── InputUnreadable
│   ├── InputEmpty                   no bytes
│   ├── NotMedia                     bytes that no decoder understands
│   ├── NoAudio                      media without an audio track
│   ├── NoSamples                    an audio track without a single valid sample
│   ├── RecordingTooLong
│   ├── InputChanged                 written to while it was read (transient)
│   └── InputCrashed                 transcribing it has ended the process again and again
├── ModelError              exit 4   weights are missing, damaged or do not fit
│   ├── ModelNotPulled
│   ├── ModelDamaged
│   ├── ModelUnavailable             the source could not be reached (transient)
│   ├── TrainingDiverged             the loss is no number any more
│   └── PromotionRefused             it is not good enough to be the default
├── EngineError             exit 5   an inference engine is missing or failed
│   ├── EngineMissing
│   └── EngineFailed                 (transient)
├── OutputError             exit 6   a result could not be written
│   ├── OutputUnwritable
│   └── StorageFull                  (transient)
├── StorageError            exit 7   the object store does not do its part
│   ├── StorageUnavailable           it cannot be reached, or is in trouble (transient)
│   └── StorageRefused               it does not permit this, or there is no such bucket
└── Defect                  exit 1   a fault of Stenopool itself

The same code stands in the error record of a failed file and in machine-readable output; the exit
status of a command follows from the class. `transient` says whether trying again unchanged can
help.
"""

# ruff: noqa: N818  the names say what happened; `Error` ends those that only group

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from stenopool.text import encodable


class StenoError(Exception):
    """Base of all errors that a user can act on.

    Args:
        what: what happened, with the file, key or value that it happened to.
        do: what the user can do about it, as an imperative sentence.
    """

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    transient: ClassVar[bool] = False

    def __init__(self, what: str, *, do: str) -> None:
        super().__init__(what)
        self.what = what
        self.do = do

    def record(self) -> dict[str, object]:
        """The error as plain data: `code, message, hint, transient`."""
        return {
            "code": self.code,
            "message": encodable(self.what),
            "hint": self.do,
            "transient": self.transient,
        }


class UsageError(StenoError):
    """The request itself is wrong."""

    code = "usage"
    exit_status = 2


class UnknownName(UsageError):
    """No model, language, format or engine has this name."""

    code = "unknown_name"


class UnsupportedOption(UsageError):
    """The chosen model or algorithm cannot honour this option."""

    code = "unsupported_option"


class ResumeRefused(UsageError):
    """A training can only go on with the data and hyper-parameters that it was begun with."""

    code = "resume_refused"


class Busy(UsageError):
    """Too much is waiting already."""

    code = "busy"
    transient = True


class TextDoesNotFit(UsageError):
    """The text that is to be aligned is longer than the recording allows."""

    code = "text_does_not_fit"


class InputError(StenoError):
    """This recording cannot be transcribed."""

    code = "input"
    exit_status = 3


class InputNotFound(InputError):
    """The path does not exist."""

    code = "input_not_found"


class InputNotAFile(InputError):
    """The path is a folder, a socket or a device."""

    code = "input_not_a_file"


class InputUnreadable(InputError):
    """The file exists but may not be read."""

    code = "input_unreadable"


class InputEmpty(InputError):
    """The file has no bytes."""

    code = "input_empty"


class NotMedia(InputError):
    """No demuxer or decoder understands the bytes."""

    code = "not_media"


class NoAudio(InputError):
    """The media has no audio track (or not the one that was asked for)."""

    code = "no_audio"


class NoSamples(InputError):
    """The audio track yields no valid sample."""

    code = "no_samples"


class RecordingTooLong(InputError):
    """The decoded audio exceeds the configured limit."""

    code = "recording_too_long"


class InputChanged(InputError):
    """The recording was written to while it was read: most likely it is still being copied."""

    code = "input_changed"
    transient = True


class InputCrashed(InputError):
    """Transcribing the recording has ended the process several times."""

    code = "input_crashed"


class ModelError(StenoError):
    """Weights are missing, damaged or do not fit the engine."""

    code = "model"
    exit_status = 4


class ModelNotPulled(ModelError):
    """The model is known but not on this machine, and pulling is switched off."""

    code = "model_not_pulled"


class ModelDamaged(ModelError):
    """A model file is missing, truncated or does not have the expected SHA-256."""

    code = "model_damaged"


class ModelUnavailable(ModelError):
    """No source of the model could be reached."""

    code = "model_unavailable"
    transient = True


class TrainingDiverged(ModelError):
    """The loss or the gradient of a training is no number any more."""

    code = "training_diverged"


class PromotionRefused(ModelError):
    """The model is not good or fast enough to become the default."""

    code = "promotion_refused"


class EngineError(StenoError):
    """An inference engine is missing or failed."""

    code = "engine"
    exit_status = 5


class EngineMissing(EngineError):
    """The engine's package is not installed, or the device is not there."""

    code = "engine_missing"


class EngineFailed(EngineError):
    """The engine raised while loading or running a model."""

    code = "engine_failed"
    transient = True


class OutputError(StenoError):
    """A result could not be written."""

    code = "output"
    exit_status = 6


class OutputUnwritable(OutputError):
    """The output folder or file may not be written."""

    code = "output_unwritable"


class StorageFull(OutputError):
    """No space is left where the result should go."""

    code = "storage_full"
    transient = True


class StorageError(StenoError):
    """The object store that the bucket is in does not do its part."""

    code = "storage"
    exit_status = 7


class StorageUnavailable(StorageError):
    """The object store cannot be reached, or is in trouble itself."""

    code = "storage_unavailable"
    transient = True


class StorageRefused(StorageError):
    """The object store does not permit this, or has no such bucket."""

    code = "storage_refused"


class Defect(StenoError):
    """A fault of Stenopool itself; what raised it is its `__cause__`."""

    code = "defect"


def restored(record: Mapping[str, object]) -> StenoError:
    """The error that a record tells of, such as one that another process has met.

    Args:
        record: as `StenoError.record` gives it; one of an unknown code is a `Defect`.
    """
    kinds = {kind.code: kind for kind in _below(StenoError)}
    kind = kinds.get(str(record.get("code")), Defect)
    return kind(str(record.get("message", "")), do=str(record.get("hint", "")))


def _below(kind: type[StenoError]) -> list[type[StenoError]]:
    return [kind, *(one for below in kind.__subclasses__() for one in _below(below))]
