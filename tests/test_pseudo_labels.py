"""Pseudo-labels: nothing is heard twice, speakers stay apart, and times stay true."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from distillations import (
    ScriptedTeacher,
    manifest_of,
    recordings,
    segment,
    tokenizer,
    transcript,
    window,
)
from sounds import tone, write_wav
from stenopool.data import Recording, read
from stenopool.decoding.tokens import Vocabulary
from stenopool.errors import Busy, InputUnreadable, NotMedia, ResumeRefused, UsageError
from stenopool.training.examples import Bad
from stenopool.training.labels import LabelledWindow, Stretch, labelled
from stenopool.training.ledger import Ledger
from stenopool.training.packing import packed, parted, pieces
from stenopool.training.pseudo_labels import TRANSCRIPTS, pseudo_label
from stenopool.training.window_audio import WindowAudio

if TYPE_CHECKING:
    from stenopool import Transcriber
    from stenopool.transcript import Transcript


@pytest.fixture
def teacher(tmp_path: Path) -> ScriptedTeacher:
    """Hears six recordings of 10 s; the first three are of one speaker."""
    folder = tmp_path / "teacher"
    folder.mkdir()
    (folder / "tokenizer.json").write_bytes(tokenizer())
    script = {
        f"{number:03}.wav": transcript(segment(0.5, 8.0, f"Tone {number}."), duration=10.0)
        for number in range(6)
    }
    return ScriptedTeacher(folder, dict(script))


def labels(folder: Path) -> list[LabelledWindow]:
    return list(labelled(folder, Bad(stop=True)))


def test_windows_hold_up_to_30_s_of_one_speaker(tmp_path: Path, teacher: ScriptedTeacher) -> None:
    source = recordings(tmp_path / "in", 6, seconds=10.0)
    told = pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    found = labels(tmp_path / "out")
    assert told["windows"] == 2
    assert [[part.audio.name for part in one.stretches] for one in found] == [
        ["000.wav", "001.wav", "002.wav"],
        ["003.wav", "004.wav", "005.wav"],
    ]
    assert [one.speaker for one in found] == ["s0", "s1"]
    assert found[0].text == "Tone 0. Tone 1. Tone 2."
    assert found[0].reference == "tone 0 tone 1 tone 2"
    assert [(one.start, one.end) for one in found[0].passages] == [
        (0.5, 8.0),
        (10.5, 18.0),
        (20.5, 28.0),
    ]


def test_speakers_and_unknown_speakers_stay_apart(tmp_path: Path, teacher: ScriptedTeacher) -> None:
    source = recordings(tmp_path / "in", 6, seconds=10.0, speaker=None)
    pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    found = labels(tmp_path / "out")
    assert len(found) == 6
    assert all(one.whole and one.previous is None for one in found)


def test_previous_window_is_one_of_the_same_speaker(
    tmp_path: Path, teacher: ScriptedTeacher
) -> None:
    for name in teacher.script:
        teacher.script[name] = transcript(segment(0.0, 19.0, "Long."), duration=20.0)
    source = recordings(tmp_path / "in", 6, seconds=20.0)
    pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    found = labels(tmp_path / "out")
    assert [one.previous for one in found] == [None, "000", "001", None, "003", "004"]


def test_tokens_are_the_text_between_its_times(tmp_path: Path, teacher: ScriptedTeacher) -> None:
    source = recordings(tmp_path / "in", 6, seconds=10.0)
    pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    first = labels(tmp_path / "out")[0]
    vocabulary = Vocabulary(teacher.folder / "tokenizer.json")
    times = [one for one in first.tokens if one >= vocabulary.first_timestamp]
    assert [(one - vocabulary.first_timestamp) * 0.02 for one in times] == pytest.approx(
        [0.5, 8.0, 10.5, 18.0, 20.5, 28.0]
    )
    assert vocabulary.text(first.tokens) == " Tone 0. Tone 1. Tone 2."
    assert len(first.tokenizer) == 16


def test_killed_and_run_again_it_hears_nothing_twice(
    tmp_path: Path, teacher: ScriptedTeacher
) -> None:
    source = recordings(tmp_path / "in", 6, seconds=10.0)
    teacher.dies_after = 2
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    # A process that is killed while it writes leaves half a line.
    with (tmp_path / "out" / TRANSCRIPTS).open("ab") as file:
        file.write(b'{"key": "half')
    teacher.dies_after = None
    told = pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    assert teacher.asked == [f"{number:03}.wav" for number in range(6)]
    assert told["heard_now"] == 2
    again = pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    assert again["heard_now"] == 0
    assert again["windows"] == told["windows"] == 2
    assert len(teacher.asked) == 6


def test_file_that_was_replaced_is_heard_again(tmp_path: Path, teacher: ScriptedTeacher) -> None:
    source = recordings(tmp_path / "in", 6, seconds=10.0)
    pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    write_wav(tmp_path / "in" / "003.wav", tone(9.0))
    pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    assert teacher.asked[6:] == ["003.wav"]


def test_other_teacher_in_the_same_folder_is_refused(
    tmp_path: Path, teacher: ScriptedTeacher
) -> None:
    source = recordings(tmp_path / "in", 6, seconds=10.0)
    pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    teacher.info = replace(teacher.info, sha256="1" * 64)
    with pytest.raises(ResumeRefused, match="sha256"):
        pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))


def test_recordings_that_fail_are_counted(tmp_path: Path, teacher: ScriptedTeacher) -> None:
    source = recordings(tmp_path / "in", 6, seconds=10.0)
    teacher.script["001.wav"] = NotMedia("`001.wav` is no media", do="Check it")
    teacher.script["002.wav"] = transcript(duration=10.0)
    bad = Bad(stop=False)
    told = pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=bad)
    assert told["skipped"] == {"not_media": 1}
    assert told["without_speech"] == 1
    assert labels(tmp_path / "out")[0].text == "Tone 0."


def test_archive_without_any_text_is_heard(tmp_path: Path, teacher: ScriptedTeacher) -> None:
    folder = tmp_path / "archive"
    (folder / "deep").mkdir(parents=True)
    write_wav(folder / "000.wav", tone(10.0))
    write_wav(folder / "deep" / "001.wav", tone(10.0))
    (folder / "notes.txt").write_text("not a recording")
    (folder / ".hidden.wav").write_bytes(b"")
    pseudo_label(str(folder), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    found = labels(tmp_path / "out")
    assert [one.id for one in found] == ["000.wav", "deep/001.wav"]
    assert all(one.reference is None for one in found)


def test_manifest_reads_as_a_data_set_where_windows_are_files(
    tmp_path: Path, teacher: ScriptedTeacher
) -> None:
    source = recordings(tmp_path / "in", 1, seconds=10.0)
    pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    (one,) = read(tmp_path / "out")
    assert one.audio.resolve() == (tmp_path / "in" / "000.wav").resolve()
    assert one.text == "Tone 0."


def test_window_of_several_files_is_not_taken_for_its_first_file(
    tmp_path: Path, teacher: ScriptedTeacher
) -> None:
    source = recordings(tmp_path / "in", 6, seconds=10.0)
    pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    with pytest.raises(UsageError, match="no `audio`"):
        list(read(tmp_path / "out"))


# --- long recordings --------------------------------------------------------------------------


def long() -> Transcript:
    """70 s: three sentences, a long pause, and one more."""
    return transcript(
        segment(1.0, 12.0, "First one."),
        segment(12.4, 25.0, "Second one."),
        segment(25.5, 40.0, "Third one."),
        segment(60.0, 65.0, "Fourth one."),
        duration=70.0,
    )


def test_long_recording_is_cut_between_segments_and_loses_its_pauses() -> None:
    text = "first one second one third one forth one"
    found = pieces(Recording(id="a", audio=Path("a.wav"), text=text), long(), 0)
    assert [one.text for one in found] == ["First one. Second one.", "Third one.", "Fourth one."]
    assert [one.reference for one in found] == ["first one second one", "third one", "forth one"]
    assert [(one.stretch.start, one.stretch.end) for one in found] == [
        (0.8, 25.2),
        (25.3, 40.2),
        (59.8, 65.2),
    ]
    windows = list(packed(found, None, ""))
    assert [one.id for one in windows] == ["a", "a+2"]
    assert windows[1].previous == "a"
    second = windows[1].passages[1]
    assert second.start == pytest.approx(14.9 + 0.2)
    assert all(one.seconds <= 30 for one in windows)


def test_windows_have_names_of_their_own() -> None:
    found = pieces(Recording(id="a", audio=Path("a.wav")), long(), 0)
    windows = list(packed([*found, *found], None, ""))
    assert len({one.id for one in windows}) == len(windows)


def test_reference_is_cut_where_the_transcript_is() -> None:
    assert parted("a b c d e f", ["A b,", "x d", "e f g"]) == ["a b", "c d", "e f"]
    assert parted("a b", ["c", "d"]) == ["a", "b"]
    assert parted(None, ["c", "d"]) == [None, None]
    assert parted("", ["c", "d"]) == ["", ""]


def test_audio_of_a_window_is_that_of_its_stretches(tmp_path: Path) -> None:
    sound = tone(40.0, hz=200.0)
    write_wav(tmp_path / "a.wav", sound)
    audio = WindowAudio()
    for spans in (((0.5, 1.5), (38.0, 39.0)), ((1.25, 2.0),), ((30.0, 40.0),)):
        parts = tuple(Stretch(tmp_path / "a.wav", *span) for span in spans)
        found = audio.samples(window(stretches=parts))
        wanted = [sound[round(start * 16_000) : round(end * 16_000)] for start, end in spans]
        assert len(found) == sum(map(len, wanted))
        assert found[: len(wanted[0])] == pytest.approx(wanted[0], abs=1e-3)
        assert found[-len(wanted[-1]) :] == pytest.approx(wanted[-1], abs=1e-3)
    audio.close()


# --- bad files --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "it is no JSON"),
        ("[]", "no JSON object"),
        ('{"id": "a", "text": "", "parts": []}', "0 s"),
        ('{"id": "a", "text": "", "parts": [{"audio": "a", "start": 2, "end": 1}]}', "no stretch"),
        ('{"id": "a", "text": "", "parts": [{"audio": "a", "start": 0, "end": 31}]}', "31 s"),
        ('{"id": "a", "text": "", "parts": [{"audio": "a", "start": 0, "end": 1e999}]}', "no sec"),
        ('{"id": 1, "text": "", "parts": [{"audio": "a", "start": 0, "end": 1}]}', "no text"),
        (
            '{"id": "a", "text": "", "parts": [{"audio": "a", "start": 0, "end": 1}],'
            ' "tokens": [-1]}',
            "no token",
        ),
    ],
)
def test_bad_line_is_named_by_its_number(tmp_path: Path, text: str, reason: str) -> None:
    path = manifest_of(tmp_path, [window()])
    path.write_text(path.read_text() + text + "\n")
    with pytest.raises(UsageError, match=f"line 2.*{reason}"):
        labels(tmp_path)
    bad = Bad(stop=False)
    assert len(list(labelled(path, bad))) == 1
    assert bad.counts["usage"] == 1


def test_labels_are_read_as_they_were_written(tmp_path: Path) -> None:
    given = [
        window("a", tokens=(1, 2, 3), tokenizer="ab", reference="it is", speaker="s"),
        window("b", "", previous="a", licence="CC0"),
    ]
    manifest_of(tmp_path, given)
    found = labels(tmp_path)
    same = [replace(one, stretches=given[0].stretches) for one in found]
    assert same == given


def test_damaged_ledger_is_named(tmp_path: Path) -> None:
    (tmp_path / "ledger.jsonl").write_text('{"key": "a"}\n[]\n')
    with pytest.raises(InputUnreadable, match="line 2"):
        Ledger(tmp_path / "ledger.jsonl")


def test_two_processes_do_not_label_into_one_folder(
    tmp_path: Path, teacher: ScriptedTeacher
) -> None:
    source = recordings(tmp_path / "in", 1, seconds=10.0)
    (tmp_path / "out").mkdir()
    with Ledger(tmp_path / "out" / TRANSCRIPTS).claim(), pytest.raises(Busy):
        pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))
    pseudo_label(str(source), tmp_path / "out", teacher.transcriber, bad=Bad(stop=True))


def test_real_teacher_labels_a_real_recording(
    tmp_path: Path, transcriber: Transcriber, speech_wav: Path
) -> None:
    told = pseudo_label(
        str(_manifest(tmp_path, speech_wav)), tmp_path / "out", transcriber, bad=Bad(stop=True)
    )
    found = labels(tmp_path / "out")
    assert told["windows"] == len(found) > 1  # it has 44 s
    assert all(one.seconds <= 30 for one in found)
    assert "best of times" in found[0].text
    assert found[0].tokens


def _manifest(folder: Path, recording: Path) -> Path:
    path = folder / "one.jsonl"
    path.write_text(json.dumps({"audio": str(recording), "language": "en", "speaker": "r"}) + "\n")
    return path
