"""Audio that comes in small pieces over a network, as 16-bit samples at 16 kHz."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self, cast

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.audio.resampler import AudioResampler
from av.codec.context import CodecContext

from stenopool.audio import SAMPLE_RATE
from stenopool.errors import NotMedia, UsageError

_OLD_NAMES = {"pcm16": "audio/pcm", "g711_ulaw": "audio/pcmu", "g711_alaw": "audio/pcma"}
_CODECS = {
    "audio/pcm": "pcm_s16le",
    "audio/pcmu": "pcm_mulaw",
    "audio/pcma": "pcm_alaw",
    "audio/opus": "opus",
}
_RATES = {"audio/pcmu": 8000, "audio/pcma": 8000, "audio/opus": 48_000}
_BYTES = {"audio/pcm": 2}  # of a sample, where it is more than one
LOWEST_RATE, HIGHEST_RATE = 8000, 48_000


@dataclass(frozen=True, slots=True)
class Format:
    """How the audio is encoded; always mono.

    Attributes:
        kind: `audio/pcm` (16 bits, little-endian), `audio/pcmu`, `audio/pcma` or `audio/opus` (one
            packet at a time).
        rate: samples a second.
    """

    kind: str = "audio/pcm"
    rate: int = 24_000

    @classmethod
    def of(cls, given: object) -> Self:
        """From what a client says: `{"type": "audio/pcm", "rate": 24000}`, or an older name.

        Raises:
            UsageError: no such format, or a rate that it cannot have.
        """
        said = {"type": given} if isinstance(given, str) else given
        if not isinstance(said, dict):
            raise UsageError("the format is no object", do='Give `{"type": "audio/pcm"}`')
        kind = str(said.get("type", "audio/pcm"))
        kind = _OLD_NAMES.get(kind, kind)
        if kind not in _CODECS:
            raise UsageError(f"no such format: `{kind}`", do=f"Use one of: {', '.join(_CODECS)}")
        rate = said.get("rate", _RATES.get(kind, 24_000))
        if isinstance(rate, bool) or not isinstance(rate, int):
            raise UsageError("`rate` is not a whole number", do="Give 24000")
        if not LOWEST_RATE <= rate <= HIGHEST_RATE or _RATES.get(kind, rate) != rate:
            raise UsageError(f"`{kind}` cannot have the rate {rate}", do="See the documentation")
        return cls(kind, rate)

    @property
    def old_name(self) -> str:
        """As older clients call it."""
        names = {kind: name for name, kind in _OLD_NAMES.items()}
        return names.get(self.kind, self.kind)

    def to_dict(self) -> dict[str, Any]:
        """As newer clients say it."""
        return {"type": self.kind, "rate": self.rate}


class LiveInput:
    """Decodes and resamples what comes in."""

    def __init__(self, format: Format) -> None:
        self._format = format
        codec = cast(AudioCodecContext, CodecContext.create(_CODECS[format.kind], "r"))
        codec.sample_rate, codec.layout = format.rate, "mono"
        self._codec = codec
        self._resampler = AudioResampler("s16", "mono", SAMPLE_RATE)
        self._rest = b""

    def take(self, data: bytes) -> bytes:
        """Samples as 16 bits, little-endian, at 16 kHz; what is not a whole sample waits.

        Raises:
            NotMedia: the bytes cannot be decoded.
        """
        size = _BYTES.get(self._format.kind, 1)
        data = self._rest + data
        whole = len(data) - len(data) % size
        self._rest = data[whole:]
        if not whole:
            return b""
        try:
            frames = self._codec.decode(av.Packet(data[:whole]))
            samples = [self._resampler.resample(frame) for frame in frames]
        except av.FFmpegError as error:
            raise NotMedia(
                f"the audio is not `{self._format.kind}`: {error}", do="Check the format"
            ) from error
        parts = [one.to_ndarray().reshape(-1) for group in samples for one in group]
        return np.concatenate(parts).astype("<i2").tobytes() if parts else b""
