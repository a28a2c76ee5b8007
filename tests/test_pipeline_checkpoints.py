from __future__ import annotations

import io
import json
import pickle
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import stenopool.pipeline.checkpoints as module
from listeners import MODEL, Reader, put, reading_of, task_for, window_of, work
from stenopool import Options
from stenopool.audio.windows import Piece, Window
from stenopool.bucket import FolderBucket
from stenopool.decoding.assembly import Assembly, Facts
from stenopool.decoding.language import Language
from stenopool.decoding.quality import Figures
from stenopool.decoding.readings import Reading
from stenopool.pipeline import recording
from stenopool.pipeline.checkpoints import (
    Checkpoints,
    Kept,
    Plan,
    fingerprint,
    span_name,
    start_of,
    window_name,
)
from stenopool.settings import Settings
from stenopool.transcript import Transcript, Word

JOB = "0123456789abcdef01234567-1"
FOLDER = f"work/{JOB}"
NAME = "000000000000-0123456789abcdef"
SPAN = "000000048000-01234567"
MARK = "0" * 64
OPTIONS = Reader().resolved(Options())

finite = st.floats(allow_nan=False)
texts = st.text(max_size=20)
flags = st.lists(texts, max_size=3).map(tuple)
words = st.builds(Word, texts, finite, finite, finite)
figures = st.builds(Figures, finite, finite, finite, flags)
readings = st.builds(Reading, st.lists(words, max_size=5).map(tuple), figures, finite, finite)
kept = st.builds(Kept, st.lists(readings, min_size=1, max_size=3), finite)


def names(digits: int) -> st.SearchStrategy[str]:
    digests = st.text("0123456789abcdef", min_size=digits, max_size=digits)
    return st.builds("{:012d}-{}".format, st.integers(0, 10**14), digests)


lengths = st.floats(min_value=0.0, exclude_min=True, allow_infinity=False)
facts = st.builds(Facts, lengths, finite, st.builds(Language, texts, finite), flags)
of_windows, of_spans = (st.lists(names(digits), max_size=5).map(tuple) for digits in (16, 8))
plans = st.builds(Plan, facts, of_windows, of_spans, texts)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
)


@pytest.fixture
def bucket(tmp_path: Path) -> FolderBucket:
    return FolderBucket(tmp_path)


class InMemory(dict[str, bytes]):
    """As much of a bucket as checkpoints need, for many examples in little time."""

    def read(self, key: str) -> bytes | None:
        return self.get(key)

    def create(self, key: str, data: bytes | str) -> bool:
        if key in self:
            return False
        self.write(key, data)
        return True

    def write(self, key: str, data: bytes | str) -> None:
        self[key] = data.encode() if isinstance(data, str) else data

    def delete(self, key: str) -> None:
        self.pop(key, None)


def checkpoints(**files: bytes) -> tuple[Checkpoints, InMemory]:
    held = InMemory({f"{FOLDER}/{name}": data for name, data in files.items()})
    return Checkpoints(held, JOB), held  # type: ignore[arg-type]


def transcript(text: str = "hello you.") -> Transcript:
    assembly = Assembly(OPTIONS)
    assert list(assembly.segments([reading_of(window_of(text))]))
    return assembly.transcript(Facts(30.0, 0.5, Language("en", 0.9), ()), MODEL, 0.25)


# --- round trips --------------------------------------------------------------------------------


@given(kept)
def test_readings_come_back_as_they_were(one: Kept) -> None:
    made, _ = checkpoints()
    made.keep(NAME, one)
    assert made.kept(NAME) == one
    assert repr(made.kept(NAME)) == repr(one)  # floats to the last bit, zeros with their signs


@given(plans)
def test_plan_comes_back_as_it_was(plan: Plan) -> None:
    made, _ = checkpoints()
    made.store_plan(plan)
    assert made.plan() == plan
    assert repr(made.plan()) == repr(plan)


@st.composite
def windows(draw: st.DrawFn) -> list[Window]:
    """Windows of one recording, in order, of one or more pieces."""
    at, found = draw(st.integers(0, 10**12)), []
    for count in draw(st.lists(st.integers(1, 3), min_size=1, max_size=4)):
        pieces = []
        for _ in range(count):
            length = draw(st.integers(1, 50))
            seed = draw(st.integers(0, 1000))
            samples = np.random.default_rng(seed).standard_normal(length).astype(np.float32)
            voice = sorted(draw(st.tuples(st.integers(0, length), st.integers(0, length))))
            pieces.append(Piece(samples, at, at + length, at + voice[0], at + voice[1]))
            at += length + draw(st.integers(0, 5))
        found.append(Window(tuple(pieces)))
        at -= draw(st.integers(0, 20))  # those of the chunked algorithm overlap
        at = max(at, 0)
    return found


@given(windows())
def test_windows_come_back_as_they_were(given_windows: list[Window]) -> None:
    made, _ = checkpoints()
    made.store_span("s", given_windows)
    found = made.span("s")
    assert found is not None
    assert len(found) == len(given_windows)
    for ours, theirs in zip(found, given_windows, strict=True):
        assert len(ours.pieces) == len(theirs.pieces)
        for one, other in zip(ours.pieces, theirs.pieces, strict=True):
            assert replace(one, samples=None) == replace(other, samples=None)  # type: ignore[arg-type]
            assert one.samples.dtype == np.float32
            np.testing.assert_array_equal(one.samples, other.samples)
        assert window_name(ours, MARK) == window_name(theirs, MARK)


def test_transcript_comes_back_as_it_was(bucket: FolderBucket) -> None:
    made = Checkpoints(bucket, JOB)
    assert made.transcript() is None
    made.store_transcript(transcript())
    assert made.transcript() == transcript()


# --- who is second ------------------------------------------------------------------------------


def test_first_reading_stands(bucket: FolderBucket) -> None:
    made = Checkpoints(bucket, JOB)
    first, second = (Kept([reading_of(window_of("hello"))], seconds) for seconds in (1.0, 2.0))
    made.keep(NAME, first)
    made.keep(NAME, second)
    assert made.kept(NAME) == first
    assert made.present() == {NAME}


def test_first_transcript_stands(bucket: FolderBucket) -> None:
    made = Checkpoints(bucket, JOB)
    made.store_transcript(transcript("first"))
    made.store_transcript(transcript("second"))
    found = made.transcript()
    assert found
    assert found.text == "first"


def test_what_is_damaged_is_mended(bucket: FolderBucket) -> None:
    made = Checkpoints(bucket, JOB)
    bucket.write(f"{FOLDER}/readings/{NAME}.json", "{")
    bucket.write(f"{FOLDER}/transcript.json", "{")
    one = Kept([reading_of(window_of("hello"))], 1.0)
    made.keep(NAME, one)
    made.store_transcript(transcript())
    assert made.kept(NAME) == one
    assert made.transcript() == transcript()


def test_of_many_at_once_one_reading_stands(bucket: FolderBucket) -> None:
    barrier = threading.Barrier(8)

    def keep(number: int) -> Kept | None:
        one = Checkpoints(bucket, JOB)
        barrier.wait()
        one.keep(NAME, Kept([reading_of(window_of("hello"))], float(number)))
        return one.kept(NAME)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(keep, range(8)))
    assert found[0] is not None
    assert all(one == found[0] for one in found)


def test_cleared_folder_leaves_nothing(bucket: FolderBucket) -> None:
    made, other = Checkpoints(bucket, JOB), Checkpoints(bucket, JOB.replace("-1", "-11"))
    for one in (made, other):
        one.keep(NAME, Kept([reading_of(window_of("hello"))], 1.0))
        one.store_span("s", [window_of("hello")])
        one.store_transcript(transcript())
    made.clear()
    made.clear()
    assert (made.present(), made.span("s"), made.transcript()) == (set(), None, None)
    assert not bucket.root.joinpath(FOLDER).exists()
    assert other.present() == {NAME}


def test_lost_plan_goes_with_the_readings_that_it_lacks(bucket: FolderBucket) -> None:
    made = Checkpoints(bucket, JOB)
    other = NAME.replace("a", "b")
    for name in (NAME, other):
        made.keep(name, Kept([reading_of(window_of("hello"))], 1.0))
    made.store_plan(Plan(Facts(1.0, 1.0, Language("en", 1.0), ()), (NAME, other), (), MARK))
    made.drop_plan([other])
    assert (made.plan(), made.present()) == (None, {NAME})


# --- damage -------------------------------------------------------------------------------------


def documents() -> dict[str, bytes]:
    """One of each kind, as it is kept."""
    made, held = checkpoints()
    made.keep(NAME, Kept([reading_of(window_of("hello you"))], 0.5))
    made.store_plan(Plan(Facts(30.0, 1.5, Language("en", 0.9), ("doubt",)), (NAME,), (SPAN,), MARK))
    made.store_transcript(transcript())
    made.store_span("s", [window_of("hello|you"), window_of("again", 1)])
    return {key.removeprefix(f"{FOLDER}/"): data for key, data in held.items()}


READ: Mapping[str, Callable[[Checkpoints], object]] = {
    f"readings/{NAME}.json": lambda one: one.kept(NAME),
    "plan.json": Checkpoints.plan,
    "transcript.json": Checkpoints.transcript,
    "spans/s.npz": lambda one: one.span("s"),
}
JSON = [name for name in READ if name.endswith("json")]


def found_in(name: str, data: bytes) -> object:
    return READ[name](checkpoints(**{name: data})[0])


@pytest.mark.parametrize("name", READ)
def test_what_is_whole_is_found(name: str) -> None:
    assert found_in(name, documents()[name]) is not None


@pytest.mark.parametrize("name", READ)
def test_what_is_cut_off_anywhere_counts_as_absent(name: str) -> None:
    whole = documents()[name]
    step = 1 if name in JSON else 37
    for length in [*range(0, len(whole), step), len(whole) - 1]:
        assert found_in(name, whole[:length]) is None


@pytest.mark.parametrize("name", READ)
@given(garbage=st.binary(max_size=200))
def test_garbage_counts_as_absent(name: str, garbage: bytes) -> None:
    assert found_in(name, garbage) is None


@pytest.mark.parametrize("name", READ)
@given(data=st.data())
def test_flipped_byte_is_no_exception(name: str, data: st.DataObject) -> None:
    whole = bytearray(documents()[name])
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    found_in(name, bytes(whole))


HOSTILE = [
    b"null",
    b"[]",
    b"5",
    b'"text"',
    b"{}",
    b"\xff\xfe{}",
    b"\0",
    b"[" * 200_000,
    b'{"readings":' * 200_000,
    b"9" * 10_000,
    b'{"readings": [], "compute": 1}',
    b'{"readings": {}, "compute": 1}',
    b'{"readings": "abc", "compute": 1}',
    b'{"windows": [], "spans": [], "facts": {}}',
]


@pytest.mark.parametrize("span", ["", "span", "0-x", SPAN + "0", "9" * 5000 + SPAN, "../" + SPAN])
def test_plan_with_a_name_that_no_span_has_counts_as_absent(span: str) -> None:
    plan = json.loads(documents()["plan.json"])
    assert found_in("plan.json", json.dumps(plan).encode()) is not None
    assert found_in("plan.json", json.dumps({**plan, "spans": [span]}).encode()) is None


def test_names_tell_where_windows_and_spans_begin() -> None:
    assert (start_of(NAME), start_of(SPAN)) == (0.0, 3.0)


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("data", HOSTILE, ids=range(len(HOSTILE)))
def test_other_json_counts_as_absent(name: str, data: bytes) -> None:
    assert found_in(name, data) is None


def paths_in(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """To everything in a document."""
    inside = (
        data.items()
        if isinstance(data, dict)
        else enumerate(data)
        if isinstance(data, list)
        else ()
    )
    return [path, *(below for key, value in inside for below in paths_in(value, (*path, key)))]


def changed(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(data) if isinstance(data, dict) else list(data)
    copy[path[0]] = changed(data[path[0]], path[1:], value)
    return copy


ODD: list[Any] = [None, [], {}, "text", [[]], "../../etc/passwd", 10**400]


@pytest.mark.parametrize("name", [f"readings/{NAME}.json", "plan.json"])
def test_wrong_value_anywhere_is_no_exception(name: str) -> None:
    document = json.loads(documents()[name])
    for path in paths_in(document):
        for value in ODD:
            found = found_in(name, json.dumps(changed(document, path, value)).encode())
            if isinstance(found, Plan):
                assert all(len(window) == len(NAME) for window in found.windows)
            if isinstance(found, Kept):
                for reading in found.readings:
                    assert isinstance(reading.end + sum(one.start for one in reading.words), float)


@pytest.mark.parametrize("name", [f"readings/{NAME}.json", "plan.json"])
@settings(suppress_health_check=[HealthCheck.too_slow])
@given(data=anything)
def test_any_json_is_no_exception(name: str, data: object) -> None:
    assert found_in(name, json.dumps(data).encode()) is None


@pytest.mark.parametrize("name", JSON)
def test_missing_field_counts_as_absent(name: str) -> None:
    document = json.loads(documents()[name])
    optional = {"flags", "words", "text", "id"}  # of what a transcript has
    for field in document:
        if name != "transcript.json" or field not in optional:
            rest = {key: value for key, value in document.items() if key != field}
            assert found_in(name, json.dumps(rest).encode()) is None


# --- speech -------------------------------------------------------------------------------------


def packed(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


class Exploding:
    """Does something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("exploded"),)


ROWS = np.array([[0, 0, 4, 0, 4]])
SAMPLES = np.zeros(4, dtype=np.float32)


def test_pickled_object_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    objects = np.array([Exploding()], dtype=object)
    for data in (
        packed(pieces=ROWS, samples=objects),
        packed(pieces=objects, samples=SAMPLES),
        pickle.dumps(Exploding()),
        pickle.dumps({"pieces": ROWS, "samples": SAMPLES}),
    ):
        assert found_in("spans/s.npz", data) is None
    assert list(tmp_path.iterdir()) == []


ARCHIVES = {
    "empty": b"",
    "one array": packed(pieces=ROWS),
    "other names": packed(a=ROWS, b=SAMPLES),
    "too few samples": packed(pieces=ROWS, samples=SAMPLES[:3]),
    "no length": packed(pieces=np.array([[0, 4, 4, 4, 4]]), samples=SAMPLES),
    "backwards": packed(pieces=np.array([[0, 4, 0, 0, 4]]), samples=SAMPLES),
    "flat": packed(pieces=np.arange(5), samples=SAMPLES),
    "too narrow": packed(pieces=ROWS[:, :4], samples=SAMPLES),
    "no rows": packed(pieces=ROWS[:0], samples=SAMPLES),
    "fractions": packed(pieces=ROWS + 0.5, samples=SAMPLES),
    "not numbers": packed(pieces=ROWS, samples=np.array(["a", "b", "c", "d"])),
    "texts": packed(pieces=np.array([["0", "0", "4", "0", "4"]]), samples=SAMPLES),
    "two channels": packed(pieces=ROWS, samples=np.zeros((4, 2), dtype=np.float32)),
    "complex": packed(pieces=ROWS.astype(complex), samples=SAMPLES),
    "no archive": b"\x93NUMPY\x01\x00",
}


@pytest.mark.parametrize("data", ARCHIVES.values(), ids=ARCHIVES)
def test_archive_that_is_no_speech_counts_as_absent(data: bytes) -> None:
    made, held = checkpoints(**{"spans/s.npz": data})
    assert made.span("s") is None
    assert not held


def test_single_array_counts_as_absent() -> None:
    file = io.BytesIO()
    np.save(file, SAMPLES)
    assert found_in("spans/s.npz", file.getvalue()) is None


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_changed_sample_counts_as_absent(at: float) -> None:
    whole = bytearray(documents()["spans/s.npz"])
    begin = whole.index(b"samples.npy") + 200
    end = whole.rindex(b"PK\x01\x02", 0, whole.rindex(b"PK\x01\x02"))
    whole[begin + round(at * (end - begin - 100))] ^= 0x40
    assert found_in("spans/s.npz", bytes(whole)) is None


# --- names --------------------------------------------------------------------------------------

OTHERS: dict[str, Any] = {
    "language": "de",
    "task": "translate",
    "algorithm": "chunked",
    "word_timestamps": False,
    "initial_prompt": "x",
    "hotwords": "x",
    "beam_size": 2,
    "temperatures": (0.0,),
    "condition_on_previous_text": True,
    "batch_size": 3,
    "chunk_seconds": 12.0,
    "language_threshold": 0.4,
    "compression_ratio_threshold": float("inf"),
    "logprob_threshold": -0.5,
    "no_speech_threshold": 0.5,
    "vad_threshold": 0.4,
    "audio_track": 1,
}


def test_reading_is_named_by_every_option() -> None:
    assert set(OTHERS) == {one.name for one in fields(Options)}
    found = {fingerprint(MODEL, replace(OPTIONS, **{name: OTHERS[name]}), "en") for name in OTHERS}
    assert len(found | {fingerprint(MODEL, OPTIONS, "en")}) == len(OTHERS) + 1


def test_reading_is_named_by_model_language_and_version(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [replace(MODEL, **{one.name: "other"}) for one in fields(MODEL)]
    found = {fingerprint(model, OPTIONS, "en") for model in [MODEL, *models]}
    found.add(fingerprint(MODEL, OPTIONS, "de"))
    monkeypatch.setattr(module, "__version__", "0.0.0")
    found.add(fingerprint(MODEL, OPTIONS, "en"))
    assert len(found) == len(models) + 3


def test_aligner_makes_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(MODEL, OPTIONS, "en")
    refined = Settings(aligner="somewhere")
    monkeypatch.setattr(module, "settings", lambda: refined)
    assert fingerprint(MODEL, OPTIONS, "en") != before


def test_window_is_named_by_every_border() -> None:
    piece = Piece(np.zeros(100, dtype=np.float32), 1000, 1100, 1010, 1090)
    other = Piece(np.zeros(100, dtype=np.float32), 1200, 1300, 1210, 1290)
    base = Window((piece, other))
    borders = ("start", "end", "voice_start", "voice_end")
    variants = [
        Window((piece,)),
        Window((other, piece)),
        *(Window((replace(piece, **{name: getattr(piece, name) + 1}), other)) for name in borders),
        *(Window((piece, replace(other, **{name: getattr(other, name) + 1}))) for name in borders),
    ]
    found = {window_name(window, MARK) for window in [base, *variants]}
    assert len(found) == len(variants) + 1
    assert window_name(base, MARK) == window_name(Window((piece, other)), MARK)
    assert window_name(base, "1" * 64) not in found


@given(st.lists(st.integers(0, 48 * 3600 * 16_000), min_size=2, max_size=10))
def test_names_are_in_the_order_of_their_beginnings(starts: list[int]) -> None:
    samples = np.zeros(1, dtype=np.float32)
    found = [
        window_name(Window((Piece(samples, at, at + 1, at, at + 1),)), MARK)
        for at in sorted(starts)
    ]
    assert [name.partition("-")[0] for name in sorted(found)] == [
        name.partition("-")[0] for name in found
    ]
    assert all(map(module._WINDOW.fullmatch, found))


def test_span_is_named_by_its_windows() -> None:
    first, second, third = (window_name(window_of("x", n), MARK) for n in range(3))
    spans = [[first, second], [first, third], [first], [second, third]]
    assert len({span_name(one) for one in spans}) == len(spans)
    assert span_name([first, second]).startswith(first.partition("-")[0])


def test_work_of_one_version_is_not_merged_by_another(
    bucket: FolderBucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(bucket, "input/a.wav", "one\ntwo")
    first, second = Reader(), Reader()
    task = task_for(bucket, "input/a.wav", first)
    recording.transcribe(task)
    bucket.delete(f"work/{task.id}/transcript.json")
    monkeypatch.setattr(module, "__version__", "0.0.0")
    assert work(replace(task, listener=second)) is None
    assert first.heard == second.heard == ["one", "two"]
