"""The same recordings under harder conditions, made on the fly and repeatable."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np

from stenopool.audio import SAMPLE_RATE, Samples, media
from stenopool.data.recording import Recording
from stenopool.data.wav import WavWriter
from stenopool.errors import InputError, UnknownName, UsageError
from stenopool.evaluation import sounds
from stenopool.evaluation.sounds import FRAME, Survey

CLEAN = "clean"
SNR_RANGE = (-10, 40)  # dB

SILENT_LEVEL = 0.05  # taken as the speech level where a recording is digital silence
NOISE_PEAK = 5.0  # noise is hardly ever louder than this many times its root mean square
HEADROOM = 0.99  # of full scale
VOICES = 6  # that babble at once
VOICE_SECONDS = 20  # of each, repeated
RT60 = 0.6  # seconds until the echo of a room has fallen by 60 dB
ECHO_HEADROOM = 0.7  # of full scale, for the sound before the room
CLIPPING = 6.0  # dB above the speech level at which sound is cut off
SILENCE_SECONDS, MUSIC_SECONDS = 5, 10  # put into a recording
GAP_EVERY = 30.0  # seconds of speech between gaps where the borders of utterances are known


@dataclass(frozen=True, slots=True)
class Scene:
    """Where a recording is heard.

    Attributes:
        recording: the one that is heard.
        survey: what was measured of it.
        others: recordings of the same set.
        random: seeded by seed, condition and recording.
        level: signal-to-noise ratio in dB, where the condition has one.
        folder: for files that are needed for a moment.
    """

    recording: Recording
    survey: Survey
    others: Sequence[Recording]
    random: np.random.Generator
    level: float
    folder: Path


Apply = Callable[[Iterable[Samples], Scene], Iterator[Samples]]


@dataclass(frozen=True, slots=True)
class Condition:
    """What is done to recordings.

    Attributes:
        name: as it is asked for.
        meaning: for readers of the report.
        apply: how it is made; `None` leaves the file as it is.
        level: signal-to-noise ratio in dB, where there is one.
        speech_added: words of others can be heard, also where the recording has none.
    """

    name: str
    meaning: str
    apply: Apply | None
    level: float = 0.0
    speech_added: bool = False


def condition(name: str) -> Condition:
    """The condition of a name.

    Raises:
        UnknownName: there is none.
    """
    if name == CLEAN:
        return Condition(CLEAN, "the recordings as they are", None)
    if name in _FIXED:
        meaning, apply = _FIXED[name]
        return Condition(name, meaning, apply)
    found = re.fullmatch(r"(noise|pink|babble)-(-?\d{1,2})", name)
    if found and SNR_RANGE[0] <= int(found[2]) <= SNR_RANGE[1]:
        meaning, apply = _AT_A_LEVEL[found[1]]
        level = float(found[2])
        return Condition(
            name,
            f"{meaning}, {level:g} dB below the speech",
            apply,
            level,
            speech_added=apply is _babble,
        )
    raise UnknownName(
        f"unknown condition: `{name}`",
        do=f"Use one of: {', '.join(ALL)}; other levels than these from {SNR_RANGE[0]} to "
        f"{SNR_RANGE[1]} dB, such as `noise-15`",
    )


@contextmanager
def heard(
    recording: Recording, under: Condition, folder: Path, *, others: Sequence[Recording], seed: int
) -> Iterator[Path]:
    """The file of a recording under a condition, for as long as it is needed.

    Args:
        recording: the recording.
        under: the condition; `clean` is the file as it is.
        folder: for the 16 kHz wav file, which is removed afterwards.
        others: of the same set, for babble.
        seed: of the random numbers, together with the names of condition and recording.

    Raises:
        InputError: the recording cannot be decoded.
        UsageError: the set is too small for babble.
        OutputError: the folder cannot take the file.
    """
    with recording.file(folder) as path:
        if under.apply is None:
            yield path
            return
        target = folder / f"heard-{id(recording):x}.wav"
        random = _random(seed, under.name, recording.id)
        scene = Scene(recording, _surveyed(path), others, random, under.level, folder)
        try:
            _write(target, path, under.apply, scene)
            yield target
        finally:
            target.unlink(missing_ok=True)


def _surveyed(path: Path) -> Survey:
    with media.Recording(path) as sound:
        return sounds.survey(sound)


def _write(target: Path, path: Path, apply: Apply, scene: Scene) -> None:
    with media.Recording(path) as sound, WavWriter(target) as wav:
        for block in apply(sound, scene):
            wav.write(block)


def _random(seed: int, *names: str) -> np.random.Generator:
    text = "\0".join(names).encode(errors="surrogatepass")
    return np.random.default_rng([seed, *hashlib.sha256(text).digest()])


def _noisy(blocks: Iterable[Samples], scene: Scene, noise: Iterator[Samples]) -> Iterator[Samples]:
    """Noise of root mean square 1 brought to its level; all of it fits into full scale."""
    gain = (scene.survey.level or SILENT_LEVEL) * 10 ** (-scene.level / 20)
    scale = min(1.0, HEADROOM / (scene.survey.peak + NOISE_PEAK * gain))
    return sounds.mixed(blocks, noise, gain, scale)


def _white(blocks: Iterable[Samples], scene: Scene) -> Iterator[Samples]:
    return _noisy(blocks, scene, sounds.white_noise(scene.random))


def _pink(blocks: Iterable[Samples], scene: Scene) -> Iterator[Samples]:
    return _noisy(blocks, scene, sounds.pink_noise(scene.random))


def _babble(blocks: Iterable[Samples], scene: Scene) -> Iterator[Samples]:
    """Others of the set speak at once, all equally loud."""
    voices = list(islice(_voices(scene), VOICES))
    if not voices:
        raise UsageError(
            f"nobody else can babble behind `{scene.recording.id}`",
            do="Give a set with several recordings of speech",
        )
    together = np.zeros(max(map(len, voices)))
    for voice in voices:
        together += np.resize(np.roll(voice, scene.random.integers(len(voice))), len(together))
    together /= np.sqrt(np.mean(together**2))
    start = int(scene.random.integers(len(together)))
    return _noisy(blocks, scene, sounds.repeated(together.astype(np.float32), start))


def _voices(scene: Scene) -> Iterator[Samples]:
    """Beginnings of other recordings with speech, of other speakers where those are known."""
    own = scene.recording
    others = [one for one in scene.others if one.text and one.id != own.id]
    strangers = [one for one in others if own.speaker is None or one.speaker != own.speaker]
    chosen = strangers or others
    for number in scene.random.permutation(len(chosen)):
        try:
            with (
                chosen[number].file(scene.folder) as path,
                media.Recording(path) as sound,
            ):
                voice = np.concatenate(list(islice(sound, VOICE_SECONDS)))
        except InputError:
            continue  # it is told of where it is evaluated itself
        level = sounds.survey([voice]).level
        if level:
            yield (voice / level).astype(np.float32)


def _telephone(blocks: Iterable[Samples], scene: Scene) -> Iterator[Samples]:
    return sounds.telephone(blocks)


def _reverberant(blocks: Iterable[Samples], scene: Scene) -> Iterator[Samples]:
    # What is too loud already would be cut off where echoes add up.
    gain = min(1.0, ECHO_HEADROOM / (scene.survey.peak or 1.0))
    return sounds.convolved(blocks, gain * sounds.room(scene.random, rt60=RT60))


def _clipped(blocks: Iterable[Samples], scene: Scene) -> Iterator[Samples]:
    limit = (scene.survey.level or 1.0) * 10 ** (CLIPPING / 20)
    return sounds.clipped(blocks, limit, HEADROOM / limit)


def _with_gaps(blocks: Iterable[Samples], scene: Scene) -> Iterator[Samples]:
    """Silence and music by turns, where nobody speaks."""
    level = scene.survey.level or SILENT_LEVEL
    silence = np.zeros(SILENCE_SECONDS * SAMPLE_RATE, dtype=np.float32)
    gaps = []
    for number, place in enumerate(_pauses(scene)):
        music = sounds.music(scene.random, seconds=MUSIC_SECONDS, level=level / 2)
        gaps.append((place, np.concatenate([silence, music] if number % 2 else [music, silence])))
    return sounds.inserted(blocks, gaps)


def _pauses(scene: Scene) -> Iterator[int]:
    """Samples between utterances, not too close; else the quietest place of the middle third."""
    last = 0.0
    for part in scene.recording.parts[:-1]:
        if part.end - last >= GAP_EVERY:
            last = part.end
            yield round(part.end * SAMPLE_RATE)
    if last == 0.0:
        powers = scene.survey.powers
        third = len(powers) // 3
        middle = powers[third : len(powers) - third]
        yield FRAME * (third + int(np.argmin(middle))) if len(middle) else 0


_FIXED: Mapping[str, tuple[str, Apply]] = MappingProxyType(
    {
        "telephone": ("a telephone line: 300 to 3400 Hz, 8 kHz, G.711 mu-law", _telephone),
        "reverberation": (f"a room whose echo falls by 60 dB in {RT60:g} s", _reverberant),
        "clipping": (f"cut off {CLIPPING:g} dB above the speech level", _clipped),
        "gaps": (
            f"{SILENCE_SECONDS} s of silence and {MUSIC_SECONDS} s of music between utterances",
            _with_gaps,
        ),
    }
)
_AT_A_LEVEL: Mapping[str, tuple[str, Apply]] = MappingProxyType(
    {
        "noise": ("white noise", _white),
        "pink": ("pink noise", _pink),
        "babble": (f"{VOICES} other voices of the set", _babble),
    }
)
ALL = (
    CLEAN,
    "telephone",
    *(f"noise-{level}" for level in (20, 10, 5, 0)),
    "pink-10",
    "babble-10",
    *(name for name in _FIXED if name != "telephone"),
)
