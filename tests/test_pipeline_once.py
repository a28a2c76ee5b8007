from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest

from stenopool.bucket import Bucket
from stenopool.errors import (
    EngineFailed,
    ModelDamaged,
    NoAudio,
    NotMedia,
    OutputUnwritable,
    StenoError,
    StorageFull,
    UnknownName,
    UsageError,
)
from stenopool.pipeline import FileResult, Summary, run_once
from stenopool.pipeline.keys import work_folder
from stenopool.pipeline.once import Progress
from stenopool.transcript import Coverage, ModelInfo, Segment, Timing, Transcript

FORMATS = ("txt", "srt", "vtt", "json")


def said(text: str) -> Transcript:
    return Transcript(
        text=text,
        language="en",
        language_probability=1.0,
        task="transcribe",
        duration=1.0,
        segments=(Segment(0, 0.0, 1.0, text, -0.1, 0.0, 1.0),),
        coverage=Coverage(1.0, 1.0, 0.0),
        model=ModelInfo("fake", "0" * 64, "none", "none"),
        timing=Timing(0.1, 0.1),
    )


class Fake:
    """Says what the file holds; raises what `errors` has for the file's name."""

    def __init__(self, **errors: BaseException) -> None:
        self.errors = errors
        self.paths: list[Path] = []

    def __call__(self, path: Path, progress: Progress) -> Transcript:
        self.paths.append(path)
        progress(0.5, 1.0)
        if path.stem in self.errors:
            raise self.errors[path.stem]
        return said(path.read_text())


class Watcher:
    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []
        self.results: dict[str, FileResult] = {}

    def found(self, key: str) -> None:
        self.events.append(("found", key))

    def progress(self, key: str, done_seconds: float, total_seconds: float | None) -> None:
        self.events.append(("progress", key))

    def finished(self, result: FileResult) -> None:
        self.events.append(("finished", result.key))
        self.results[result.key] = result


@pytest.fixture
def bucket(tmp_path: Path) -> Bucket:
    (tmp_path / "input").mkdir()
    return Bucket.open(str(tmp_path))


def run(
    bucket: Bucket,
    transcribe: Callable[[Path, Progress], Transcript] | None = None,
    formats: Sequence[str] = FORMATS,
) -> tuple[Summary, dict[str, FileResult]]:
    watcher = Watcher()
    summary = run_once(bucket, transcribe or Fake(), formats, watcher)
    assert not list(bucket.keys("work/"))
    return summary, watcher.results


def tree(bucket: Bucket) -> list[str]:
    tops = ("input/", "output/", "processed/", "failed/", "work/")
    return [key for top in tops for key in bucket.keys(top)]


def text_of(bucket: Bucket, name: str) -> str:
    document = json.loads((bucket.root / "output" / f"{name}.json").read_bytes())
    return str(document["text"])


def test_recording_becomes_documents_and_moves_to_processed(bucket: Bucket) -> None:
    bucket.write("input/a/b.c.wav", "hello")
    fake, watcher = Fake(), Watcher()
    summary = run_once(bucket, fake, FORMATS, watcher)
    outputs = tuple(f"output/a/b.c.wav.{name}" for name in ("txt", "srt", "vtt", "json"))
    assert summary == Summary(transcribed=1)
    assert tree(bucket) == [*sorted(outputs), "processed/a/b.c.wav"]
    assert text_of(bucket, "a/b.c.wav") == "hello"
    assert watcher.results["input/a/b.c.wav"] == FileResult(
        "input/a/b.c.wav", "transcribed", outputs, said("hello")
    )
    assert [event for event, _ in watcher.events] == ["found", "progress", "finished"]
    assert fake.paths == [bucket.root / "input/a/b.c.wav"]
    assert list((bucket.root / "work").iterdir()) == []


NAMES = ["a b.wav", "line\nbreak", "q\"'`$;.mp3", "-rf", "--", "🎙.ogg", "no-suffix", "n" * 255]


def test_names_of_any_kind_are_kept(bucket: Bucket) -> None:
    for name in NAMES:
        bucket.write(f"input/sub folder/{name}", name)
    summary, results = run(bucket)
    assert summary == Summary(transcribed=len(NAMES))
    moved = {path.name for path in (bucket.root / "processed/sub folder").iterdir()}
    assert moved == set(NAMES)
    for key, result in results.items():
        document = bucket.read(result.outputs[-1])
        assert document is not None
        assert json.loads(document)["text"].split() == key.rpartition("/")[2].split()


@pytest.mark.skipif(sys.platform == "darwin", reason="names must be UTF-8 there")
def test_failed_name_that_is_not_utf8_has_a_record_that_any_reader_takes(bucket: Bucket) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    bucket.write(f"input/{name}", "x")
    run(bucket, Fake(**{Path(name).stem: NotMedia("bad \udce9", do="x")}))
    record = (bucket.root / f"failed/{name}.error.json").read_text("utf-8")
    assert json.loads(record)["key"] == "input/caf\N{REPLACEMENT CHARACTER}.wav"
    assert (bucket.root / f"failed/{name}").read_text() == "x"


def test_json_is_always_written_and_nothing_twice(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    _, results = run(bucket, formats=["txt", "txt"])
    assert results["input/a"].outputs == ("output/a.txt", "output/a.json")
    assert tree(bucket) == ["output/a.json", "output/a.txt", "processed/a"]


def test_empty_input_transcribes_nothing(bucket: Bucket) -> None:
    fake = Fake()
    assert run(bucket, fake) == (Summary(), {})
    assert fake.paths == []


def test_missing_input_folder_is_refused_and_nothing_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no `input/`") as caught:
        run(Bucket.open(str(tmp_path)))
    assert "put recordings there" in caught.value.do
    assert list(tmp_path.iterdir()) == []


def test_unknown_format_is_refused_before_any_work(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    with pytest.raises(UnknownName, match="`docx`"):
        run(bucket, formats=["docx"])
    assert tree(bucket) == ["input/a"]


def test_hidden_files_sidecars_and_error_records_are_left_alone(bucket: Bucket) -> None:
    others = [".part", ".folder/a.wav", "a.wav.steno.json", "b.wav.error.json"]
    for name in others:
        bucket.write(f"input/{name}", "x")
    assert run(bucket) == (Summary(), {})
    assert set(tree(bucket)) == {f"input/{name}" for name in others}


def test_failed_recording_stands_beside_its_record(bucket: Bucket) -> None:
    for name in ("a", "bad", "c"):
        bucket.write(f"input/d/{name}.wav", name)
    error = NotMedia("`bad.wav` is not media", do="Convert it")
    summary, results = run(bucket, Fake(bad=error))
    assert summary == Summary(transcribed=2, failed=1, exit_status=3)
    assert results["input/d/bad.wav"] == FileResult("input/d/bad.wav", "failed", error=error)
    assert [key for key in tree(bucket) if "bad" in key] == [
        "failed/d/bad.wav",
        "failed/d/bad.wav.error.json",
    ]
    record = json.loads((bucket.root / "failed/d/bad.wav.error.json").read_bytes())
    assert datetime.fromisoformat(record.pop("time")).utcoffset() is not None
    assert record == {
        "schema": "stenopool.error/1",
        "key": "input/d/bad.wav",
        "code": "not_media",
        "message": "`bad.wav` is not media",
        "hint": "Convert it",
        "transient": False,
        "attempts": 1,
    }


def test_defect_is_recorded_with_its_type_and_the_next_file_is_done(bucket: Bucket) -> None:
    bucket.write("input/bad.wav", "x")
    bucket.write("input/good.wav", "x")
    defect = ZeroDivisionError("by nought")
    summary, results = run(bucket, Fake(bad=defect))
    assert summary == Summary(transcribed=1, failed=1, exit_status=1)
    record = json.loads((bucket.root / "failed/bad.wav.error.json").read_bytes())
    assert record["code"] == "defect"
    assert "ZeroDivisionError: by nought" in record["message"]
    error = results["input/bad.wav"].error
    assert error is not None
    assert error.__cause__ is defect


def test_transcript_that_cannot_be_rendered_fails_without_a_document(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    summary, _ = run(bucket, lambda path, progress: replace(said("x"), duration=float("nan")))
    assert summary.failed == 1
    assert tree(bucket) == ["failed/a", "failed/a.error.json"]


@pytest.mark.parametrize(
    "error",
    [
        EngineFailed("out of memory", do="x"),
        ModelDamaged("damaged", do="x"),
        StorageFull("full", do="x"),
        UsageError("option", do="x"),
    ],
)
def test_trouble_of_this_machine_leaves_the_recording(bucket: Bucket, error: StenoError) -> None:
    bucket.write("input/a.wav", "x")
    bucket.write("input/b.wav", "x")
    summary, results = run(bucket, Fake(a=error))
    assert summary == Summary(transcribed=1, left=1, exit_status=error.exit_status)
    assert results["input/a.wav"] == FileResult("input/a.wav", "left", error=error)
    assert [key for key in tree(bucket) if "a.wav" in key] == ["input/a.wav"]
    assert run(bucket)[0] == Summary(transcribed=1)


def test_second_run_does_nothing(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    run(bucket)
    before = {key: bucket.stamp(key) for key in tree(bucket)}
    assert run(bucket) == (Summary(), {})
    assert {key: bucket.stamp(key) for key in tree(bucket)} == before


def test_new_upload_replaces_documents_and_processed_copy(bucket: Bucket) -> None:
    bucket.write("input/a", "first")
    run(bucket, formats=["srt", "txt"])
    bucket.write("input/a", "second")
    assert run(bucket, formats=["txt"])[0] == Summary(transcribed=1)
    assert tree(bucket) == ["output/a.json", "output/a.txt", "processed/a"]
    assert text_of(bucket, "a") == "second"
    assert bucket.read("processed/a") == b"second"


def test_failed_second_upload_leaves_the_first_ones_transcript(bucket: Bucket) -> None:
    bucket.write("input/a", "first")
    run(bucket, formats=["json"])
    bucket.write("input/a", "second")
    run(bucket, Fake(a=NoAudio("no audio", do="x")))
    assert tree(bucket) == ["output/a.json", "processed/a", "failed/a", "failed/a.error.json"]
    assert text_of(bucket, "a") == "first"
    assert (bucket.read("processed/a"), bucket.read("failed/a")) == (b"first", b"second")


def test_record_goes_when_the_recording_is_put_back_and_succeeds(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    run(bucket, Fake(a=NoAudio("no audio", do="x")))
    bucket.move("failed/a", "input/a")
    run(bucket, formats=["json"])
    assert tree(bucket) == ["output/a.json", "processed/a"]


def test_record_stays_with_a_bad_recording_that_a_good_one_replaced(bucket: Bucket) -> None:
    bucket.write("input/a", "bad")
    run(bucket, Fake(a=NoAudio("no audio", do="x")))
    bucket.write("input/a", "good")
    run(bucket, formats=["json"])
    assert tree(bucket) == ["output/a.json", "processed/a", "failed/a", "failed/a.error.json"]


@pytest.mark.parametrize("error", [None, NotMedia("cut off", do="x")])
def test_file_still_being_copied_is_left(bucket: Bucket, error: StenoError | None) -> None:
    bucket.write("input/a", "half")

    def transcribe(path: Path, progress: Progress) -> Transcript:
        with path.open("a") as file:
            file.write(" more")
        if error:
            raise error
        return said("half")

    summary, results = run(bucket, transcribe)
    assert (summary.left, summary.transcribed, summary.failed) == (1, 0, 0)
    changed = results["input/a"].error
    assert changed is not None
    assert (changed.code, changed.transient) == ("input_changed", True)
    assert tree(bucket) == ["input/a"]
    run(bucket)
    assert text_of(bucket, "a") == "half more"


@pytest.mark.parametrize("error", [None, NotMedia("gone", do="x")])
def test_file_taken_away_while_read_leaves_nothing(
    bucket: Bucket, error: StenoError | None
) -> None:
    bucket.write("input/a", "x")

    def transcribe(path: Path, progress: Progress) -> Transcript:
        path.unlink()
        if error:
            raise error
        return said("x")

    summary, _ = run(bucket, transcribe)
    assert summary.left == 1
    assert tree(bucket) == []


def test_file_taken_away_before_its_turn_is_passed_over(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    bucket.write("input/b", "x")

    def transcribe(path: Path, progress: Progress) -> Transcript:
        (path.parent / "b").unlink(missing_ok=True)
        return said("x")

    assert run(bucket, transcribe)[0] == Summary(transcribed=1)


def test_links_are_neither_read_nor_moved(bucket: Bucket, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    (tmp_path / "input/link.wav").symlink_to(tmp_path / "secret")
    (tmp_path / "input/.hidden").symlink_to(tmp_path / "secret")
    fake = Fake()
    summary, results = run(bucket, fake)
    assert summary == Summary(left=1, exit_status=3)
    assert list(results) == ["input/link.wav"]
    assert fake.paths == []
    assert (tmp_path / "input/link.wav").is_symlink()


def test_link_below_output_is_not_written_through(bucket: Bucket, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "output").mkdir()
    (tmp_path / "output/sub").symlink_to(outside)
    bucket.write("input/sub/a", "x")
    summary = run_once(bucket, Fake(), FORMATS, Watcher())
    assert summary == Summary(left=1, exit_status=6)
    assert list(outside.iterdir()) == []


def test_input_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "input").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StenoError, match="symbolic link"):
        run(Bucket.open(str(tmp_path)))


@pytest.mark.parametrize("name", ["output", "processed", "failed", "work"])
def test_bucket_that_cannot_take_results_costs_no_transcription(bucket: Bucket, name: str) -> None:
    bucket.write("input/a", "x")
    bucket.write(name, "a file where a folder must be")
    fake = Fake()
    with pytest.raises(OutputUnwritable, match=name):
        run_once(bucket, fake, FORMATS, Watcher())
    assert fake.paths == []
    assert bucket.read("input/a") == b"x"


def test_unwritable_place_of_one_file_leaves_only_that_file(bucket: Bucket) -> None:
    for name in ("a/x", "b/x"):
        bucket.write(f"input/{name}", name)
    bucket.write("output/a", "a file where a folder must be")
    summary = run_once(bucket, Fake(), FORMATS, Watcher())
    assert summary == Summary(transcribed=1, left=1, exit_status=6)
    bucket.delete("output/a")
    fake = Fake()
    assert run(bucket, fake)[0] == Summary(transcribed=1)
    assert fake.paths == []  # it was transcribed the first time
    assert text_of(bucket, "a/x") == "a/x"


def test_interrupt_ends_the_run_and_leaves_no_half_work(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    bucket.write("input/b", "x")
    with pytest.raises(KeyboardInterrupt):
        run(bucket, Fake(b=KeyboardInterrupt()), formats=["json"])
    assert tree(bucket) == ["input/b", "output/a.json", "processed/a"]
    assert run(bucket)[0] == Summary(transcribed=1)


def test_interrupt_between_two_documents_leaves_no_half_work(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket.write("input/a", "x")
    calls: list[int] = []

    def interrupted(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 3:  # the mark of the attempt is the first
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_once(bucket, Fake(), FORMATS, Watcher())
    assert tree(bucket) == ["input/a"]
    assert list((bucket.root / "work").iterdir()) == []


def test_observer_that_raises_harms_no_recording(bucket: Bucket) -> None:
    class Closed(Watcher):
        def progress(self, key: str, done_seconds: float, total_seconds: float | None) -> None:
            raise BrokenPipeError

    bucket.write("input/a", "x")
    with pytest.raises(BrokenPipeError):
        run_once(bucket, Fake(), FORMATS, Closed())
    assert tree(bucket) == ["input/a"]


def test_second_runner_is_refused_while_the_first_works(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    refusals: list[str] = []

    def transcribe(path: Path, progress: Progress) -> Transcript:
        with pytest.raises(UsageError, match="another run") as caught:
            run_once(Bucket.open(str(bucket.root)), Fake(), FORMATS, Watcher())
        refusals.append(caught.value.what)
        return said("x")

    assert run(bucket, transcribe)[0] == Summary(transcribed=1)
    assert len(refusals) == 1


def test_only_own_leftovers_in_work_are_removed(bucket: Bucket) -> None:
    bucket.write("work/thesis/chapter1", "not ours")
    bucket.write(f"work/{'0' * 64}/.stenopool-1.tmp", "of a dead run")
    (bucket.root / "work" / ("1" * 64)).mkdir()
    run_once(bucket, Fake(), FORMATS, Watcher())
    assert [path.name for path in (bucket.root / "work").iterdir()] == ["thesis"]


@pytest.mark.parametrize("marker", ["", "[]", "{}", '{"key": 1, "stamp": [], "formats": []}'])
def test_damaged_marker_means_that_the_recording_is_done_again(bucket: Bucket, marker: str) -> None:
    bucket.write("input/a", "x")
    bucket.write(f"{work_folder('input/a')}/done.json", marker)
    fake = Fake()
    assert run(bucket, fake)[0] == Summary(transcribed=1)
    assert len(fake.paths) == 1


def test_finished_work_is_not_lost_when_its_recording_is_taken_away(bucket: Bucket) -> None:
    bucket.write("input/a", "x")
    bucket.make_folder("output/a.txt")  # so that the documents cannot be moved there
    run_once(bucket, Fake(), FORMATS, Watcher())
    bucket.delete("input/a")
    watcher = Watcher()
    assert run_once(bucket, Fake(), FORMATS, watcher) == Summary(left=1, exit_status=6)
    assert list(watcher.results) == ["input/a"]
    (bucket.root / "output/a.txt").rmdir()
    assert run(bucket) == (Summary(), {})
    assert text_of(bucket, "a") == "x"


def test_marker_of_an_older_upload_does_not_stand_for_a_new_one(bucket: Bucket) -> None:
    bucket.write("input/a", "old")
    bucket.make_folder("output/a.txt")  # so that the documents cannot be moved there
    run_once(bucket, Fake(), FORMATS, Watcher())
    assert bucket.read(f"{work_folder('input/a')}/done.json") is not None
    bucket.write("input/a", "new")
    watcher = Watcher()
    assert run_once(bucket, Fake(), FORMATS, watcher) == Summary(left=1, exit_status=6)
    assert watcher.events[0] == ("found", "input/a")
    (bucket.root / "output/a.txt").rmdir()
    fake = Fake()
    assert run(bucket, fake)[0] == Summary(transcribed=1)
    assert fake.paths == []
    assert text_of(bucket, "a") == "new"
    assert bucket.read("processed/a") == b"new"


# Everything that changes the file system passes one of these.
STEPS = ("fsync", "mkdir", "open", "replace", "rmdir", "unlink")
SCENE = {"input/good.wav": "good", "input/d/again.wav": "again new", "input/bad.wav": "bad"}


def set_scene(root: Path) -> Bucket:
    """Three recordings; one was transcribed before, into one more format."""
    (root / "input").mkdir(parents=True)
    bucket = Bucket.open(str(root))
    bucket.write("input/d/again.wav", "again old")
    run(bucket, formats=["tsv", *FORMATS])
    for key, content in SCENE.items():
        bucket.write(key, content)
    return bucket


def run_scene(bucket: Bucket, watcher: Watcher) -> tuple[Fake, Summary]:
    fake = Fake(bad=NotMedia("bad", do="x"))
    return fake, run_once(bucket, fake, FORMATS, watcher)


def run_and_die(bucket: Bucket, step: int) -> bool:
    """Whether a run in another process died at its n-th step, as if it was killed there."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    count = 0

    def counted(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count
            count += 1
            if count == step:
                os._exit(9)
            return function(*arguments, **options)

        return call

    try:
        for name in STEPS:
            setattr(os, name, counted(getattr(os, name)))
        run_scene(bucket, Watcher())
        os._exit(0)
    finally:
        os._exit(1)


def contents(bucket: Bucket) -> dict[str, bytes | None]:
    return {key: bucket.read(key) for key in tree(bucket) if not key.endswith(".error.json")}


def check_nothing_is_half_done(bucket: Bucket) -> None:
    recordings = [bucket.read(key) for key in tree(bucket) if key.endswith(".wav")]
    for content in SCENE.values():
        assert recordings.count(content.encode()) == 1
    for name in ("good.wav", "d/again.wav"):
        if bucket.read(f"output/{name}.json") is None:
            continue
        text = text_of(bucket, name)
        for document in ("txt", "srt", "vtt"):
            content_of = bucket.read(f"output/{name}.{document}")
            assert content_of is not None
            assert text.encode() in content_of
    record = bucket.read("failed/bad.wav.error.json")
    assert record is None or json.loads(record)["code"] == "not_media"
    assert record or bucket.read("failed/bad.wav") is None


def test_run_killed_at_any_step_is_finished_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the machine itself does not die
    undisturbed = set_scene(tmp_path / "undisturbed")
    run_scene(undisturbed, Watcher())
    expected_tree, expected = tree(undisturbed), contents(undisturbed)
    step = 0
    while True:
        step += 1
        bucket = set_scene(tmp_path / str(step))
        if not run_and_die(bucket, step):
            break
        check_nothing_is_half_done(bucket)
        marked = {key for key in SCENE if bucket.read(f"{work_folder(key)}/done.json")}
        fake, summary = run_scene(bucket, Watcher())
        again = {f"input/{path.relative_to(bucket.root / 'input')}" for path in fake.paths}
        assert summary.left == 0
        assert not marked & again
        assert tree(bucket) == expected_tree
        assert contents(bucket) == expected
        assert list((bucket.root / "work").iterdir()) == []
    assert step > 40


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_pipeline_once import FORMATS, Fake, Watcher
from stenopool.bucket import Bucket
from stenopool.pipeline import run_once
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
watcher = Watcher()
summary = run_once(Bucket.open(sys.argv[1]), Fake(), FORMATS, watcher)
print(summary.transcribed, summary.left, watcher.results["input/long"].error.code)
"""


def test_full_storage_leaves_the_recording_and_nothing_half_written(bucket: Bucket) -> None:
    bucket.write("input/long", "x" * 9000)
    bucket.write("input/short", "x")
    command = [sys.executable, "-c", FULL, str(bucket.root), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1 1 storage_full\n"
    assert [key for key in tree(bucket) if "long" in key or "work" in key] == ["input/long"]
    assert run(bucket)[0] == Summary(transcribed=1)


def test_many_recordings_take_little_time_each(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # the disk's time is not ours
    for number in range(1000):
        (bucket.root / f"input/{number}.wav").write_text("x")
    begin = time.monotonic()
    summary, _ = run(bucket, formats=["json"])
    assert summary == Summary(transcribed=1000)
    assert time.monotonic() - begin < 20
