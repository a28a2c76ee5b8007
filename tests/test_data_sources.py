from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sounds import tone, wav_bytes
from stenopool.data import read
from stenopool.errors import InputUnreadable, UsageError

# --- LibriSpeech -------------------------------------------------------------------------------


def libri(folder: Path, chapter: str, lines: str, suffix: str = ".flac") -> Path:
    speaker, number = chapter.split("-")
    place = folder / speaker / number
    place.mkdir(parents=True)
    (place / f"{chapter}.trans.txt").write_text(lines, encoding="utf-8")
    for line in lines.splitlines():
        (place / f"{line.partition(' ')[0]}{suffix}").touch()
    return place


def test_librispeech_folder_is_read_chapter_by_chapter(tmp_path: Path) -> None:
    libri(tmp_path, "84-121550", "84-121550-0000 BUT WITH FULL RAVISHMENT\n84-121550-0001 SO\n")
    place = libri(tmp_path, "84-121123", "84-121123-0000 GO\n", suffix=".wav")
    found = list(read(tmp_path))
    assert [one.id for one in found] == ["84-121123-0000", "84-121550-0000", "84-121550-0001"]
    assert found[0].audio == place / "84-121123-0000.wav"
    assert (found[1].speaker, found[1].chapter, found[1].language) == ("84", "121550", "en")
    assert found[1].text == "BUT WITH FULL RAVISHMENT"


def test_missing_audio_of_librispeech_is_found_out_when_it_is_heard(tmp_path: Path) -> None:
    place = libri(tmp_path, "84-1", "84-1-0000 GO\n")
    (place / "84-1-0000.flac").unlink()
    assert [one.audio for one in read(tmp_path)] == [place / "84-1-0000.flac"]


def test_line_of_librispeech_cannot_name_a_file_elsewhere(tmp_path: Path) -> None:
    place = libri(tmp_path, "84-1", "84-1-0000 GO\n")
    (place / "84-1.trans.txt").write_bytes(b"84-1-0000 GO\n../../etc/passwd ROOT\n")
    with pytest.raises(UsageError, match=r"84-1.trans.txt`, line 2"):
        list(read(tmp_path))


def test_line_of_librispeech_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    place = libri(tmp_path, "84-1", "84-1-0000 GO\n")
    (place / "84-1.trans.txt").write_bytes(b"\n84-1-0000 \xff\n")
    with pytest.raises(UsageError, match=r"84-1.trans.txt`, line 2: it is not UTF-8"):
        list(read(tmp_path))


# --- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("audio", ["audio", "path", "file", "file_name"])
@pytest.mark.parametrize("text", ["text", "sentence", "transcript"])
def test_columns_have_the_names_that_data_sets_use(tmp_path: Path, audio: str, text: str) -> None:
    table = tmp_path / "t.csv"
    table.write_text(f'{text},{audio},accent\n"well, yes",a.wav,none\n', encoding="utf-8")
    (found,) = read(table)
    assert (found.audio, found.text) == (tmp_path / "a.wav", "well, yes")
    assert found.more == {"accent": "none"}


def test_table_with_semicolons_is_understood(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("\ufeffPath;Text;Duration\na.wav;well, yes;1.5\n", encoding="utf-8")
    (found,) = read(table)
    assert (found.text, found.duration) == ("well, yes", 1.5)


def test_common_voice_has_its_files_in_clips_and_quotes_that_mean_nothing(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    table = tmp_path / "validated.tsv"
    table.write_text(
        'client_id\tpath\tsentence\tlocale\nab12\tc_1.mp3\t"Yes, she said\tcy\n', encoding="utf-8"
    )
    (found,) = read(table)
    assert found.audio == tmp_path / "clips" / "c_1.mp3"
    assert (found.text, found.speaker, found.language) == ('"Yes, she said', "ab12", "cy")


def test_table_without_texts_has_no_references(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("audio\na.wav\n", encoding="utf-8")
    assert [one.text for one in read(table)] == [None]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"audio,text\na.wav,one\nb.wav,two,three\n", "line 3: it has 3 columns"),
        (b"audio,text\na.wav,one\n,two\n", "line 3: there is no `audio`"),
        (b"audio,duration\na.wav,short\n", "line 2: `duration`"),
        (b"sound,text\na.wav,one\n", "has no column for the audio: sound, text"),
        (b"", "has no column for the audio: it is empty"),
        (b"audio,text\na.wav,\xff\n", "codec can't decode"),
        (b'audio,text\na.wav,"open\n', "after line"),
        (b"audio,text\na.wav," + b"x" * 200_000 + b"\n", "field larger"),
    ],
)
def test_broken_table_is_named_with_its_line(
    tmp_path: Path, content: bytes, complaint: str
) -> None:
    table = tmp_path / "t.csv"
    table.write_bytes(content)
    with pytest.raises(UsageError) as raised:
        list(read(table))
    assert f"`{table}`" in raised.value.what
    assert complaint in raised.value.what


# --- Hugging Face ------------------------------------------------------------------------------


def test_hub_needs_a_package_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stenopool.data.huggingface.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="`hf:some/set:test` needs the package `datasets`") as told:
        list(read("hf:some/set:test"))
    assert told.value.do == "Run `pip install datasets`"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A data set on disk, made of bytes and of a file; `datasets` takes both into itself."""
    datasets = pytest.importorskip("datasets", reason="needs `pip install datasets`")
    (tmp_path / "b.wav").write_bytes(wav_bytes(tone(0.5)))
    rows = {
        "audio": [
            {"bytes": wav_bytes(tone(1.0)), "path": "a.wav"},
            {"bytes": None, "path": str(tmp_path / "b.wav")},
        ],
        "sentence": ["one", ""],
    }
    made = datasets.Dataset.from_dict(rows)
    made.cast_column("audio", datasets.Audio()).save_to_disk(str(tmp_path / "saved"))
    return tmp_path / "saved"


def test_saved_data_set_is_read_and_its_sound_written_only_when_needed(
    saved: Path, tmp_path: Path
) -> None:
    for source in (saved, f"hf:{saved}"):
        one, two = read(source)
        assert [one.text, two.text] == ["one", ""]
        assert [one.id, two.id] == ["0", "1"]
        scratch = tmp_path / "scratch"
        scratch.mkdir(exist_ok=True)
        with one.file(scratch) as path:
            assert path.read_bytes() == wav_bytes(tone(1.0))
        assert list(scratch.iterdir()) == []
        with two.file(scratch) as path:
            assert path.read_bytes() == wav_bytes(tone(0.5))


def test_split_that_is_not_there_is_a_clear_error(saved: Path) -> None:
    with pytest.raises(UsageError, match="cannot be loaded"):
        list(read("hf:/no/such/folder:test"))


def test_recording_inside_other_data_that_is_gone_says_so(tmp_path: Path) -> None:
    from stenopool.data.huggingface import _bytes

    with pytest.raises(InputUnreadable, match="`hf:x`, row 0: its audio is gone"):
        _bytes([{"audio": {"bytes": None}}], 0, "audio", "`hf:x`, row 0")


def test_reading_imports_no_package_that_is_not_needed(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("audio\na.wav\n", encoding="utf-8")
    before = set(sys.modules)
    list(read(tmp_path / "t.csv"))
    assert not {"datasets", "jiwer", "matplotlib"} & (set(sys.modules) - before)
