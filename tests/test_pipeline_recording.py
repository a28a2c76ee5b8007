from __future__ import annotations

import json
import os
import resource
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fakes import FakeEngine, said, story, vocabulary_of
from listeners import (
    FORMATS,
    MODEL,
    Death,
    Helpers,
    Ledger,
    Memory,
    Mortal,
    NoSpans,
    Reader,
    Watching,
    kept_texts,
    put,
    task_for,
    tree,
    window_of,
    work,
)
from sounds import write_wav
from stenopool import Options, Transcriber
from stenopool.audio import SAMPLE_RATE
from stenopool.bucket import Bucket, FolderBucket
from stenopool.decoding.options import CHUNKED, PACKED
from stenopool.errors import (
    InputChanged,
    InputNotFound,
    NoAudio,
    NotMedia,
    OutputUnwritable,
    StenoError,
    StorageFull,
    StorageUnavailable,
)
from stenopool.pipeline import keys, recording
from stenopool.pipeline.checkpoints import Checkpoints, Kept, fingerprint, window_name
from stenopool.pipeline.recording import SPAN_WINDOWS, Task
from test_transcriber import same, samples_of, with_engine

LONG = "\n".join(f"line {number} of many." for number in range(2 * SPAN_WINDOWS + 3))
LINES = LONG.split("\n")
KEY = "input/a.wav"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the machine itself does not die


@pytest.fixture
def bucket(tmp_path: Path) -> FolderBucket:
    return FolderBucket(tmp_path)


def done(bucket: Bucket, key: str = KEY, **changes: Any) -> StenoError | None:
    """Do the job of what is there."""
    return work(task_for(bucket, key, Reader(), ledger=Ledger(), **changes))


def text_in(bucket: Bucket, name: str = "a.wav") -> str:
    document = bucket.read(f"output/{name}.json")
    assert document
    return str(json.loads(document)["text"])


def interrupted_after(count: int, bucket: Bucket, reader: Reader) -> Task:
    """The task of a process that ended when so many windows were kept."""
    task = task_for(bucket, KEY, reader, ledger=Ledger())
    keep = Checkpoints.keep
    calls: list[str] = []

    def keep_some(checkpoints: Checkpoints, window: str, kept: Kept) -> None:
        if len(calls) == count:
            raise Death
        calls.append(window)
        keep(checkpoints, window, kept)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Death):
        patch.setattr(Checkpoints, "keep", keep_some)
        recording.transcribe(task)
    reader.heard.clear()
    return task


# --- from input to output -----------------------------------------------------------------------


def test_recording_becomes_documents_and_moves_to_processed(bucket: FolderBucket) -> None:
    put(bucket, "input/a/b.c.wav", "hello you.\nand you.")
    put(bucket, "input/a/b.c.wav.steno.json", "{}")
    task = task_for(bucket, "input/a/b.c.wav", Reader())
    assert work(task) is None
    documents = [f"output/a/b.c.wav.{name}" for name in sorted(FORMATS)]
    moved = ["processed/a/b.c.wav", "processed/a/b.c.wav.steno.json"]
    assert list(tree(bucket)) == [*documents, *moved]
    assert bucket.read("output/a/b.c.wav.txt") == b"hello you.\nand you.\n"
    assert bucket.read("processed/a/b.c.wav") == b"hello you.\nand you."
    assert not list(bucket.root.joinpath("work").iterdir())


def test_published_documents_are_named_in_the_order_of_the_job(bucket: FolderBucket) -> None:
    put(bucket, KEY, "hello")
    task = task_for(bucket, KEY, Reader(), formats=("vtt", "txt", "json"))
    recording.transcribe(task)
    names = recording.publish(task)
    assert names == ("output/a.wav.vtt", "output/a.wav.txt", "output/a.wav.json")


def test_json_document_appears_last(bucket: FolderBucket) -> None:
    put(bucket, KEY, "hello")
    put(bucket, "output/a.wav.json", "of an older one")
    written: list[str] = []

    class Seen(Mortal):
        def write(self, key: str, data: bytes | str) -> None:
            assert self.bucket.stamp("output/a.wav.json") is None
            written.append(key.rpartition(".")[2])
            super().write(key, data)

    task = task_for(bucket, KEY, Reader())
    recording.transcribe(task)
    recording.publish(replace(task, bucket=Seen(bucket)))
    assert sorted(written[:-1]) == ["srt", "txt", "vtt"]
    assert written[-1] == "json"


NAMES = ["a b.wav", "line\nbreak", "q\"'`$;.mp3", "-rf", "--", "🎙.ogg", "x.y.z", "plain", "n" * 255]
if sys.platform != "darwin":
    NAMES.append(os.fsdecode(b"caf\xe9.wav"))


@pytest.mark.parametrize("name", NAMES)
def test_names_of_any_kind_are_kept(bucket: FolderBucket, name: str) -> None:
    key = f"input/sub folder/{name}"
    put(bucket, key, "hello")
    assert done(bucket, key) is None
    assert bucket.read(f"processed/sub folder/{name}") == b"hello"
    assert bucket.read(keys.output_key(key, "txt")) == b"hello\n"
    put(bucket, key, "!")
    assert isinstance(done(bucket, key), NotMedia)
    assert bucket.read(f"failed/sub folder/{name}") == b"!"
    record = json.loads(bucket.read(keys.record_key(key)) or b"")
    assert record["key"].encode() == key.encode("utf-8", "replace").replace(b"?", "\ufffd".encode())


def test_silence_is_a_transcript_without_text(bucket: FolderBucket) -> None:
    put(bucket, KEY, "")
    reader = Reader()
    assert work(task_for(bucket, KEY, reader)) is None
    document = json.loads(bucket.read("output/a.wav.json") or b"")
    assert (document["text"], document["language"], document["flags"]) == ("", "und", ["no_speech"])
    assert reader.heard == []


def test_failed_recording_stands_beside_its_record_with_the_attempts(bucket: FolderBucket) -> None:
    put(bucket, "input/d/bad.wav", "x")
    put(bucket, "input/d/bad.wav.steno.json", "{}")
    task = task_for(bucket, "input/d/bad.wav", Reader())
    assert recording.fail(task, NotMedia("`bad.wav` is not media", do="Convert it"), 3)
    names = ["bad.wav", "bad.wav.error.json", "bad.wav.steno.json"]
    assert list(tree(bucket)) == [f"failed/d/{name}" for name in names]
    record = json.loads(bucket.read("failed/d/bad.wav.error.json") or b"")
    assert record.pop("time").startswith("20")
    assert record == {
        "schema": "stenopool.error/1",
        "key": "input/d/bad.wav",
        "code": "not_media",
        "message": "`bad.wav` is not media",
        "hint": "Convert it",
        "transient": False,
        "attempts": 3,
    }


def test_sidecar_that_cannot_be_moved_harms_nothing(bucket: FolderBucket, tmp_path: Path) -> None:
    for name, text in (("good", "hello"), ("bad", "!")):
        put(bucket, f"input/{name}", text)
        (tmp_path / f"input/{name}.steno.json").symlink_to(tmp_path / "elsewhere")
        done(bucket, f"input/{name}", formats=("json",))
    documents = ["output/good.json", "processed/good"]
    assert list(tree(bucket)) == [*documents, "failed/bad", "failed/bad.error.json"]


def test_failure_of_a_recording_that_changed_touches_nothing(bucket: FolderBucket) -> None:
    put(bucket, KEY, "old")
    task = task_for(bucket, KEY, Reader())
    put(bucket, KEY, "newer")
    before = tree(bucket)
    assert not recording.fail(task, NotMedia("bad", do="x"), 1)
    assert tree(bucket) == before


# --- one name, several recordings ---------------------------------------------------------------


def test_documents_of_formats_not_wanted_any_more_go(bucket: FolderBucket) -> None:
    put(bucket, KEY, "first")
    done(bucket, formats=("tsv", "srt", "json"))
    put(bucket, KEY, "second")
    done(bucket, formats=("txt", "json"))
    assert list(tree(bucket)) == ["output/a.wav.json", "output/a.wav.txt", "processed/a.wav"]
    assert text_in(bucket) == "second"
    assert bucket.read("processed/a.wav") == b"second"


def test_failed_second_upload_leaves_the_first_ones_transcript(bucket: FolderBucket) -> None:
    put(bucket, KEY, "first")
    done(bucket, formats=("json",))
    put(bucket, KEY, "!")
    assert isinstance(done(bucket), NotMedia)
    documents = ["output/a.wav.json", "processed/a.wav"]
    assert list(tree(bucket)) == [*documents, "failed/a.wav", "failed/a.wav.error.json"]
    assert text_in(bucket) == "first"
    assert (bucket.read("processed/a.wav"), bucket.read("failed/a.wav")) == (b"first", b"!")


def test_record_goes_when_the_recording_is_put_back_and_succeeds(bucket: FolderBucket) -> None:
    put(bucket, KEY, "x")
    recording.fail(task_for(bucket, KEY, Reader()), NoAudio("no audio", do="x"), 1)
    bucket.move("failed/a.wav", KEY)
    done(bucket, formats=("json",))
    assert list(tree(bucket)) == ["output/a.wav.json", "processed/a.wav"]


def test_record_stays_with_a_bad_recording_that_a_good_one_replaced(bucket: FolderBucket) -> None:
    put(bucket, KEY, "!")
    done(bucket)
    put(bucket, KEY, "good")
    done(bucket, formats=("json",))
    documents = ["output/a.wav.json", "processed/a.wav"]
    assert list(tree(bucket)) == [*documents, "failed/a.wav", "failed/a.wav.error.json"]


def test_new_upload_stays_when_the_older_one_is_settled(bucket: FolderBucket) -> None:
    put(bucket, KEY, "old")
    put(bucket, f"{KEY}.steno.json", "{}")
    task = task_for(bucket, KEY, Reader())
    put(bucket, KEY, "newer")
    assert not recording.settle(task)
    assert list(tree(bucket)) == [KEY, f"{KEY}.steno.json"]


# --- recordings that change ---------------------------------------------------------------------


def change(path: Path) -> None:
    path.write_text("something else")


CHANGES = [(change, InputChanged), (Path.unlink, InputNotFound)]


@pytest.mark.parametrize(("act", "expected"), CHANGES)
@pytest.mark.parametrize("options", [{}, {"algorithm": "sequential"}])
def test_change_while_it_is_heard_is_noticed_and_nothing_published(
    bucket: FolderBucket,
    act: Callable[[Path], None],
    expected: type[StenoError],
    options: dict[str, Any],
) -> None:
    put(bucket, KEY, "first")
    done(bucket)
    before = text_in(bucket)
    put(bucket, KEY, "second")
    reader = Reader(meanwhile=act)
    assert isinstance(work(task_for(bucket, KEY, reader, options=options)), expected)
    assert reader.heard == ["second"]
    assert text_in(bucket) == before
    assert not list(bucket.keys("work/"))
    assert not list(bucket.keys("failed/"))


@pytest.mark.parametrize(("act", "expected"), CHANGES)
def test_change_before_it_is_heard_is_noticed(
    bucket: FolderBucket, act: Callable[[Path], None], expected: type[StenoError]
) -> None:
    put(bucket, KEY, "x")
    reader = Reader()
    task = task_for(bucket, KEY, reader)
    act(bucket.root / KEY)
    assert isinstance(work(task), expected)
    assert reader.listened == 0


@pytest.mark.parametrize(("act", "expected"), CHANGES)
def test_change_while_others_read_its_spans_is_noticed(
    bucket: FolderBucket, act: Callable[[Path], None], expected: type[StenoError]
) -> None:
    put(bucket, KEY, LONG)

    class Acting(Watching):
        def phase(self, name: str) -> None:
            if name == "spans":
                act(bucket.root / KEY)

    task = task_for(bucket, KEY, Reader(), ledger=Ledger(), watch=Acting())
    assert isinstance(work(task), expected)
    assert not list(bucket.keys("output/"))


def test_change_before_it_is_published_is_noticed(bucket: FolderBucket) -> None:
    put(bucket, KEY, "first")
    done(bucket)
    put(bucket, KEY, "second")
    task = task_for(bucket, KEY, Reader())
    recording.transcribe(task)
    put(bucket, KEY, "third")
    with pytest.raises(InputChanged):
        recording.publish(task)
    assert text_in(bucket) == "first"


def test_late_job_leaves_the_documents_of_a_newer_recording(bucket: FolderBucket) -> None:
    put(bucket, KEY, "old")
    task = task_for(bucket, KEY, Reader())
    recording.transcribe(task)
    put(bucket, KEY, "newer")
    assert done(bucket) is None
    before = tree(bucket)
    with pytest.raises(InputNotFound):
        recording.publish(task)
    assert tree(bucket) == before
    assert text_in(bucket) == "newer"


def test_finished_work_is_not_lost_when_its_recording_is_taken_away(bucket: FolderBucket) -> None:
    put(bucket, KEY, "hello")
    task = task_for(bucket, KEY, Reader())
    recording.transcribe(task)
    bucket.delete(KEY)
    recording.publish(task)
    assert text_in(bucket) == "hello"


# --- windows ------------------------------------------------------------------------------------


def test_short_recording_is_not_parted(bucket: FolderBucket) -> None:
    put(bucket, KEY, "\n".join(LINES[:SPAN_WINDOWS]))
    reader, watch = Reader(), Watching()
    task = task_for(bucket, KEY, reader, watch=watch)  # refuses to hand out spans
    transcript = recording.transcribe(task)
    assert reader.heard == LINES[:SPAN_WINDOWS]
    assert transcript.timing.wall_seconds == SPAN_WINDOWS * watch.seconds
    assert watch.phases == ["opening", "transcribing", "merging"]
    duration = transcript.duration
    assert watch.told[-1] == (duration, duration)
    assert [at for at, _ in watch.told] == sorted(at for at, _ in watch.told)


def test_long_recording_is_handed_out_in_spans(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    ledger, reader, watch = Ledger(), Reader(), Watching()
    task = task_for(bucket, KEY, reader, ledger=ledger, watch=watch)
    transcript = recording.transcribe(task)
    assert len(ledger.ended) == 2
    assert sum(event.startswith("read") for event in watch.events) == SPAN_WINDOWS
    spoken = [sum(window_of(one).seconds for one in part) for part in (LINES[8:16], LINES[16:])]
    assert ledger.seconds == pytest.approx(spoken)
    assert watch.phases == ["opening", "transcribing", "spans", "merging"]
    assert not [key for key in bucket.keys("work/") if "/spans/" in key]
    whole = Reader().transcribe(bucket.root / KEY, task.options(), progress=lambda done, all: None)
    assert same(transcript) == same(whole)
    assert [segment.text for segment in transcript.segments] == LINES


def test_all_is_read_here_until_somebody_could_help(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    ledger, reader = Ledger(), Reader()

    class Joined(Helpers):
        asked = 0
        before = 0.0

        def has_helpers(self) -> bool:
            self.asked += 1
            return self.asked == 2

        def wait(self, names: Sequence[str], done_seconds: float) -> None:
            self.before = done_seconds
            super().wait(names, done_seconds)

    task = task_for(bucket, KEY, reader)
    spans = Joined(ledger, task)
    watch = Watching()
    transcript = recording.transcribe(replace(task, spans=spans, watch=watch))
    read = [event for event in watch.events if event.startswith("read")]
    assert read == [f"read {line}" for line in LINES[: 2 * SPAN_WINDOWS]]
    assert (spans.asked, len(ledger.ended)) == (2, 1)
    assert [segment.text for segment in transcript.segments] == LINES
    assert spans.before == transcript.segments[2 * SPAN_WINDOWS].start
    assert [at for at, _ in watch.told] == sorted(at for at, _ in watch.told)


def test_process_that_ends_keeps_what_has_begun_and_begins_no_more(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    reader = Reader(ahead=5)
    task = task_for(bucket, KEY, reader, watch=Watching(ends_after=3))
    with pytest.raises(Death):
        recording.transcribe(task)
    assert kept_texts(task) == set(LINES[:3])
    assert task.checkpoints.plan() is None


def test_alone_nothing_is_handed_out(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    watch = Watching()
    transcript = recording.transcribe(task_for(bucket, KEY, Reader(), watch=watch))
    assert [segment.text for segment in transcript.segments] == LINES
    assert watch.phases == ["opening", "transcribing", "merging"]


def test_last_span_may_have_one_window(bucket: FolderBucket) -> None:
    put(bucket, KEY, "\n".join(LINES[: SPAN_WINDOWS + 1]))
    ledger = Ledger()
    transcript = recording.transcribe(task_for(bucket, KEY, Reader(), ledger=ledger))
    assert len(ledger.ended) == 1
    assert len(transcript.segments) == SPAN_WINDOWS + 1


def test_span_that_has_ended_without_its_windows_is_read_here(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    spans: list[str] = []

    class Ended(NoSpans):
        def has_helpers(self) -> bool:
            return True

        def submit(self, name: str, language: str, seconds: float) -> bool:
            spans.append(name)
            return False

    task = task_for(bucket, KEY, Reader())
    transcript = recording.transcribe(replace(task, spans=Ended()))
    assert len(spans) == 2
    assert len(transcript.segments) == len(LINES)
    assert not [key for key in bucket.keys("work/") if "/spans/" in key]


@pytest.mark.parametrize("count", [0, 1, 5, SPAN_WINDOWS, SPAN_WINDOWS + 3, len(LINES) - 1])
def test_windows_that_were_read_are_not_read_again(bucket: FolderBucket, count: int) -> None:
    put(bucket, KEY, LONG)
    reader = Reader()
    task = interrupted_after(count, bucket, reader)
    transcript = recording.transcribe(task)
    assert reader.heard == LINES[count:]
    assert [segment.text for segment in transcript.segments] == LINES


def test_heard_recording_is_not_opened_again(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    reader = Reader()
    task = interrupted_after(SPAN_WINDOWS + 3, bucket, reader)  # others are reading its spans
    recording.transcribe(task)
    assert reader.listened == 1


@given(known=st.sets(st.integers(0, 9)), ahead=st.integers(0, 12))
def test_any_windows_may_be_known_already(
    tmp_path_factory: pytest.TempPathFactory, known: set[int], ahead: int
) -> None:
    bucket, reader = FolderBucket(tmp_path_factory.mktemp("bucket")), Reader()
    put(bucket, KEY, LONG)
    task = task_for(bucket, KEY, reader)
    options, windows = task.options(), [window_of(line, n) for n, line in enumerate(LINES[:10])]
    for _ in recording.read_windows(task, [windows[n] for n in sorted(known)], options, "en"):
        pass
    again = Reader(ahead=ahead)
    found = list(
        recording.read_windows(replace(task, listener=again), iter(windows), options, "en")
    )
    mark = fingerprint(MODEL, options, "en")
    assert [one.name for one in found] == [window_name(window, mark) for window in windows]
    assert [one.end for one in found] == [window.end for window in windows]
    assert again.heard == [line for n, line in enumerate(LINES[:10]) if n not in known]


def test_windows_are_taken_as_they_are_needed(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    task, taken = task_for(bucket, KEY, Reader(ahead=1)), []

    def endless() -> Iterator[Any]:
        for number in range(1000):
            taken.append(number)
            yield window_of(f"line {number}", number)

    reading = recording.read_windows(task, endless(), task.options(), "en")
    for _ in range(3):
        next(reading)
    assert len(taken) == 4


def test_reading_of_another_language_or_model_is_not_taken(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    reader = Reader()
    task = task_for(bucket, KEY, reader)
    other = replace(task, listener=Reader(info=replace(MODEL, precision="int8")))
    changed = Options.of(hotwords="names").resolved(
        algorithm="packed", chunk_seconds=None, multilingual=True, beam_size=1, batch_size=1
    )
    windows, options = [window_of("hello")], task.options()
    for one, how, language in (
        (task, options, "en"),
        (task, options, "de"),
        (other, options, "en"),
        (task, changed, "en"),
    ):
        assert len(list(recording.read_windows(one, windows, how, language))) == 1
    assert len(task.checkpoints.present()) == 4


def test_plan_of_another_model_is_not_merged_under_this_ones_name(bucket: FolderBucket) -> None:
    put(bucket, KEY, "hello")
    task = task_for(bucket, KEY, Reader())
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Death):
        patch.setattr(recording, "_merged", lambda *_: (_ for _ in ()).throw(Death))
        recording.transcribe(task)
    assert task.checkpoints.plan()
    other = Reader(info=replace(MODEL, precision="int8"))
    transcript = recording.transcribe(replace(task, listener=other))
    assert transcript.model == other.info
    assert other.heard == ["hello"]


# --- the same as in one go ----------------------------------------------------------------------


class Loudness:
    """A voice activity detector for tones."""

    def probabilities(self, blocks: Any) -> Any:
        from stenopool.audio import regrouped
        from stenopool.audio.vad import CALL_FRAMES, FRAME_SAMPLES

        for samples in regrouped(blocks, CALL_FRAMES * FRAME_SAMPLES):
            padded = np.pad(samples, (0, -len(samples) % FRAME_SAMPLES))
            peaks = np.abs(padded.reshape(-1, FRAME_SAMPLES)).max(axis=1)
            yield np.where(peaks > 0.01, 0.98, 0.02).astype(np.float32)


@pytest.fixture(scope="module")
def tale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More than five minutes of tones, with pauses between sentences."""
    pause = np.zeros(round(0.6 * SAMPLE_RATE), dtype=np.float32)
    words = story(560)
    parts = [part for at in range(0, len(words), 9) for part in (said(words[at : at + 9]), pause)]
    path = tmp_path_factory.mktemp("tale") / "tale.wav"
    return write_wav(path, np.concatenate(parts).astype(np.float64))


def hearing(transcriber: Transcriber, **engine: Any) -> Transcriber:
    """Real decoding of tones."""
    changed = with_engine(transcriber, FakeEngine(vocabulary_of(transcriber), **engine))
    changed.detector = Loudness()  # type: ignore[assignment]
    return changed


def in_the_bucket(bucket: FolderBucket, path: Path) -> None:
    (bucket.root / "input").mkdir()
    (bucket.root / KEY).hardlink_to(path)


@pytest.mark.parametrize("algorithm", [PACKED, CHUNKED])
@pytest.mark.filterwarnings("ignore::stenopool.decoding.whisper.UnsuitedAlgorithm")
def test_spans_give_the_transcript_that_one_go_gives(
    bucket: FolderBucket, transcriber: Transcriber, tale: Path, algorithm: str
) -> None:
    in_the_bucket(bucket, tale)
    heard = hearing(transcriber)
    ledger, options = Ledger(), {"algorithm": algorithm}
    task = task_for(bucket, KEY, heard, ledger=ledger, options=options)
    transcript = recording.transcribe(task)
    assert ledger.ended
    assert same(transcript) == same(heard.transcribe(tale, Options.of(**options)))
    assert len(transcript.text.split()) == pytest.approx(560, abs=3)


def test_detected_language_goes_with_the_spans(
    bucket: FolderBucket, transcriber: Transcriber, tale: Path
) -> None:
    in_the_bucket(bucket, tale)
    languages = [{"en": 0.6, "de": 0.4}]
    heard = hearing(transcriber, multilingual=True, languages=languages)
    transcript = recording.transcribe(task_for(bucket, KEY, heard, ledger=Ledger()))
    assert transcript.language == "en"
    assert transcript.language_probability == pytest.approx(0.6)
    assert same(transcript) == same(heard.transcribe(tale))


def test_real_speech_in_spans_is_what_the_model_says_in_one_go(
    bucket: FolderBucket, transcriber: Transcriber, speech_wav: Path
) -> None:
    speech = np.tile(samples_of(speech_wav), 8).astype(np.float64)  # six minutes
    (bucket.root / "input").mkdir()
    path = write_wav(bucket.root / KEY, speech)
    ledger, options = Ledger(), {"temperatures": (0.0,)}
    transcript = recording.transcribe(
        task_for(bucket, KEY, transcriber, ledger=ledger, options=options)
    )
    assert len(ledger.ended) == 1
    assert same(transcript) == same(transcriber.transcribe(path, Options.of(**options)))
    assert transcript.text.lower().count("best of times") == 8


# --- damage -------------------------------------------------------------------------------------

DAMAGES = [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"readings": [{}], "compute": 1}', None]


def damage(bucket: FolderBucket, key: str, how: bytes | None) -> None:
    bucket.delete(key)
    if how is not None:
        bucket.write(key, how)


@pytest.mark.parametrize("how", DAMAGES, ids=range(len(DAMAGES)))
@pytest.mark.parametrize("at", [0, 4, SPAN_WINDOWS, len(LINES) - 1])
@pytest.mark.parametrize("planned", [False, True])
def test_damaged_reading_is_read_again(
    bucket: FolderBucket, how: bytes | None, at: int, planned: bool
) -> None:
    put(bucket, KEY, LONG)
    ledger, reader = Ledger(), Reader()
    task = task_for(bucket, KEY, reader, ledger=ledger)
    expected = recording.transcribe(task)
    folder = keys.job_folder(task.id)
    bucket.delete(f"{folder}/transcript.json")
    if not planned:
        bucket.delete(f"{folder}/plan.json")
    name = sorted(task.checkpoints.present())[at]
    damage(bucket, f"{folder}/readings/{name}.json", how)
    reader.heard.clear()
    assert work(task) is None
    assert reader.heard == [LINES[at]]
    assert text_in(bucket) == expected.text


@pytest.mark.parametrize("how", DAMAGES, ids=range(len(DAMAGES)))
def test_damaged_plan_means_that_the_recording_is_heard_again(
    bucket: FolderBucket, how: bytes | None
) -> None:
    put(bucket, KEY, LONG)
    reader = Reader()
    task = task_for(bucket, KEY, reader, ledger=Ledger())
    expected = recording.transcribe(task)
    folder = keys.job_folder(task.id)
    bucket.delete(f"{folder}/transcript.json")
    damage(bucket, f"{folder}/plan.json", how)
    assert same(recording.transcribe(task)) == same(expected)
    assert reader.listened == 2
    assert len(reader.heard) == len(LINES)


@pytest.mark.parametrize("how", DAMAGES, ids=range(len(DAMAGES)))
def test_damaged_transcript_is_made_again_before_it_is_published(
    bucket: FolderBucket, how: bytes | None
) -> None:
    put(bucket, KEY, LONG)
    task, memory = task_for(bucket, KEY, Reader(), ledger=Ledger()), Memory()
    recording.transcribe(task)
    memory.outcomes["transcribe"] = None
    damage(bucket, f"{keys.job_folder(task.id)}/transcript.json", how)
    assert work(task, memory) is None
    assert text_in(bucket) == " ".join(LINES)
    assert list(tree(bucket)) == [
        *(f"output/a.wav.{name}" for name in sorted(FORMATS)),
        "processed/a.wav",
    ]


@pytest.mark.parametrize("how", [b"", b"PK\x03\x04", b"\x93NUMPY", None])
def test_damaged_span_is_read_by_the_recordings_own_process(
    bucket: FolderBucket, how: bytes | None
) -> None:
    put(bucket, KEY, LONG)
    reader = Reader()

    class Damaging(Watching):
        def phase(self, name: str) -> None:
            for key in list(bucket.keys("work/")) if name == "spans" else []:
                if "/spans/" in key:
                    damage(bucket, key, how)

    task = task_for(bucket, KEY, reader, ledger=Ledger(), watch=Damaging())
    assert work(task) is None
    assert text_in(bucket) == " ".join(LINES)
    assert sorted(reader.heard) == sorted(LINES)


def test_work_that_cannot_be_mended_ends_with_an_error(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    task = task_for(bucket, KEY, Reader(), ledger=Ledger())
    recording.transcribe(task)
    folder = keys.job_folder(task.id)
    bucket.delete(f"{folder}/transcript.json")
    bucket.delete_below(f"{folder}/readings")
    with pytest.raises(StorageUnavailable, match="is lost in part"):
        recording.transcribe(task)


# --- processes that end -------------------------------------------------------------------------

SHORT = "\n".join(f"part {number}." for number in range(5))
SCENE = {"long.wav": SHORT, "d/again.wav": "again new.\nand | more.", "bad.wav": "!"}


def set_scene(root: Path, name: str) -> FolderBucket:
    """A recording with options of its own, after one of this name that failed, and one that was
    transcribed into one more format."""
    bucket, key = FolderBucket(root), f"input/{name}"
    put(bucket, key, "old")
    done(bucket, key, formats=("tsv", *FORMATS))
    put(bucket, key, "!")
    done(bucket, key)
    bucket.move(f"failed/{name}", key)
    put(bucket, key, SCENE[name])
    put(bucket, f"{key}.steno.json", "{}")
    return bucket


def check_nothing_is_half_done(bucket: FolderBucket, name: str) -> None:
    there = tree(bucket)
    recordings = [data for key, data in there.items() if key.endswith(name)]
    assert recordings.count(SCENE[name].encode()) == 1
    document = there.get(f"output/{name}.json")
    if document:
        last = json.loads(document)["text"].split()[-1].encode()
        assert all(last in there[f"output/{name}.{format}"] for format in FORMATS)
    else:
        assert f"input/{name}" in there  # somebody has still to do it


def after_death(task: Task, bucket: Bucket, reader: Reader) -> Task:
    """The same job in the hands of another process, and of other helpers."""
    spans = task.spans
    assert isinstance(spans, Helpers)
    helper = replace(spans.helper, bucket=bucket, listener=reader)
    return replace(task, bucket=bucket, listener=reader, spans=replace(spans, helper=helper))


@pytest.mark.parametrize("name", SCENE)
def test_process_killed_at_any_step_is_continued_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(recording, "SPAN_WINDOWS", 2)

    def begun(folder: str) -> tuple[FolderBucket, Mortal, Task]:
        bucket = set_scene(tmp_path / folder, name)
        task = task_for(bucket, f"input/{name}", Reader(), ledger=Ledger())
        mortal = Mortal(bucket)
        return bucket, mortal, after_death(task, mortal, Reader())

    undisturbed, mortal, task = begun("undisturbed")
    work(task)
    expected, steps = tree(undisturbed), mortal.count
    assert not [key for key in expected if key.startswith(("input/", "work/"))]
    for step in range(1, steps + 1):
        for after in (False, True):
            bucket, mortal, dying = begun(f"{step}{after}")
            mortal.die_at, mortal.after = step, after
            memory, reader = Memory(), Reader()
            with pytest.raises(Death):
                work(dying, memory)
            check_nothing_is_half_done(bucket, name)
            following = after_death(dying, bucket, reader)
            kept = kept_texts(following)
            work(following, memory)
            assert not kept & set(reader.heard)
            assert tree(bucket) == expected
            assert not list(bucket.root.joinpath("work").rglob("*"))
    assert steps > 8


@pytest.mark.parametrize("name", SCENE)
def test_trouble_with_the_storage_at_any_step_is_got_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whether the request was lost, or only its answer."""
    monkeypatch.setattr(recording, "SPAN_WINDOWS", 2)
    undisturbed = set_scene(tmp_path / "undisturbed", name)
    work(task_for(undisturbed, f"input/{name}", Reader(), ledger=Ledger()))
    expected, number, calm = tree(undisturbed), 0, False
    while not calm:
        number += 1
        for after in (False, True):
            bucket, reader = set_scene(tmp_path / f"{number}{after}", name), Reader()
            task = task_for(bucket, f"input/{name}", reader, ledger=Ledger())
            trouble = StorageUnavailable("away", do="Wait")
            mortal = Mortal(bucket, number, after, trouble=trouble)
            work(after_death(task, mortal, reader))
            calm = mortal.count < number
            assert tree(bucket) == expected
            assert len(reader.heard) <= SHORT.count("\n") + 1 + reader.ahead + 1
    assert number > 8


def test_work_stopped_at_any_check_is_continued_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "SPAN_WINDOWS", 2)
    undisturbed, watch = set_scene(tmp_path / "undisturbed", "long.wav"), Watching()
    work(task_for(undisturbed, "input/long.wav", Reader(), ledger=Ledger(), watch=watch))
    expected, lines = tree(undisturbed), SHORT.split("\n")
    for number in range(1, watch.checks + 1):
        bucket = set_scene(tmp_path / str(number), "long.wav")
        memory, reader, stopped = Memory(), Reader(), Watching(stop_at=number)
        task = task_for(bucket, "input/long.wav", reader, ledger=Ledger(), watch=stopped)
        with pytest.raises(Death):
            work(task, memory)
        work(replace(task, watch=Watching()), memory)
        assert set(reader.heard) == set(lines)
        assert len(reader.heard) <= len(lines) + reader.ahead
        assert tree(bucket) == expected
    assert watch.checks > len(FORMATS)


def test_late_process_that_dies_while_it_publishes_again_loses_nothing(tmp_path: Path) -> None:
    """One that was taken for dead goes on when another one has just finished."""

    def publish_late(folder: Path, die_at: int) -> tuple[FolderBucket, int]:
        bucket = FolderBucket(folder)
        put(bucket, KEY, "hello you.")
        task = task_for(bucket, KEY, Reader())
        recording.transcribe(task)
        late = Mortal(bucket)

        class Late(Watching):
            def check(self) -> None:
                if not self.checks:
                    work(task)
                    late.count, late.die_at = 0, die_at
                super().check()

        with suppress(Death):
            recording.publish(replace(task, bucket=late, watch=Late()))
        return bucket, late.count

    whole, count = publish_late(tmp_path / "whole", 0)
    documents = [f"output/a.wav.{name}" for name in sorted(FORMATS)]
    assert list(tree(whole)) == [*documents, "processed/a.wav"]
    for step in range(1, count + 1):
        bucket, _ = publish_late(tmp_path / str(step), step)
        assert tree(bucket) == tree(whole)


def test_two_that_believe_that_a_job_is_theirs_publish_one_transcript(tmp_path: Path) -> None:
    alone = FolderBucket(tmp_path / "alone")
    put(alone, KEY, LONG)
    done(alone)
    for attempt in range(20):
        bucket = FolderBucket(tmp_path / str(attempt))
        put(bucket, KEY, LONG)
        ledger, barrier = Ledger(), threading.Barrier(2)
        tasks = [
            task_for(bucket, KEY, Reader(), ledger=ledger, watch=Watching(seconds))
            for seconds in (0.25, 0.5)
        ]

        def work_at_once(task: Task, barrier: threading.Barrier = barrier) -> StenoError | None:
            barrier.wait()
            return work(task)

        with ThreadPoolExecutor(2) as pool:
            errors = list(pool.map(work_at_once, tasks))
        assert None in errors
        assert all(error is None or isinstance(error, InputNotFound) for error in errors)
        found, expected = tree(bucket), tree(alone)
        document = json.loads(found.pop("output/a.wav.json"))
        wall = document.pop("timing")["wall_seconds"]
        assert 0.25 * len(LINES) <= wall <= 0.5 * len(LINES)
        other = json.loads(expected.pop("output/a.wav.json"))
        del other["timing"]
        assert (document, found) == (other, expected)


# --- storage ------------------------------------------------------------------------------------


@contextmanager
def file_sizes_limited(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_storage_leaves_the_recording_and_nothing_half_written(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    task, memory = task_for(bucket, KEY, Reader(), ledger=Ledger()), Memory()
    with pytest.raises(StorageFull), file_sizes_limited(2000):
        work(task, memory)
    for key, data in tree(bucket).items():
        assert key == KEY or json.loads(data)
    assert work(task, memory) is None
    assert text_in(bucket) == " ".join(LINES)


def test_document_that_does_not_fit_leaves_no_set_without_its_json(bucket: FolderBucket) -> None:
    put(bucket, KEY, LONG)
    task = task_for(bucket, KEY, Reader(), ledger=Ledger())
    recording.transcribe(task)
    with pytest.raises(StorageFull), file_sizes_limited(1000):
        recording.publish(task)
    assert bucket.read("output/a.wav.json") is None
    assert work(task) is None
    assert text_in(bucket) == " ".join(LINES)


@pytest.mark.parametrize("name", ["output", "processed", "work"])
def test_place_that_cannot_be_written_leaves_the_recording(bucket: FolderBucket, name: str) -> None:
    put(bucket, KEY, LONG)
    bucket.write(name, "a file where a folder must be")
    task, memory = task_for(bucket, KEY, Reader(), ledger=Ledger()), Memory()
    with pytest.raises(OutputUnwritable):
        work(task, memory)
    assert bucket.read(KEY) == LONG.encode()
    bucket.delete(name)
    assert work(task, memory) is None
    assert text_in(bucket) == " ".join(LINES)


def test_link_below_output_is_not_written_through(bucket: FolderBucket, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output/sub").symlink_to(outside)
    put(bucket, "input/sub/a", "x")
    with pytest.raises(OutputUnwritable, match="symbolic link"):
        done(bucket, "input/sub/a")
    assert list(outside.iterdir()) == []
    assert bucket.read("input/sub/a") == b"x"
