from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluations import write_manifest
from stenopool.data import manifest as manifest_module
from stenopool.data import read
from stenopool.data.recording import Recording
from stenopool.errors import InputNotFound, InputUnreadable, StenoError, UsageError

LINE = {
    "id": "118-47824-0000",
    "audio": "118/118-47824-0000.flac",
    "text": "chapter seven",
    "duration": 15.01,
    "speaker": "118",
    "sex": "M",
    "chapter": 47824,
    "language": "en",
    "licence": "CC-BY-4.0",
}


def test_all_fields_of_a_line_are_kept(tmp_path: Path) -> None:
    (found,) = read(write_manifest(tmp_path / "m.jsonl", [LINE]))
    assert found == Recording(
        id="118-47824-0000",
        audio=tmp_path / "118/118-47824-0000.flac",
        text="chapter seven",
        duration=15.01,
        speaker="118",
        chapter="47824",
        language="en",
        licence="CC-BY-4.0",
    )
    assert found.more == {"sex": "M"}


def test_without_text_is_not_the_same_as_nothing_said(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", [{"audio": "a.wav"}, {"audio": "b", "text": ""}])
    assert [one.text for one in read(path)] == [None, ""]


def test_recording_without_id_is_named_by_its_audio(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", [{"audio": "sub/a.wav"}])
    assert [one.id for one in read(path)] == ["sub/a.wav"]


def test_absolute_paths_and_those_that_lead_upwards_are_fine(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", [{"audio": "/data/a.wav"}, {"audio": "../b.wav"}])
    assert [one.audio for one in read(path)] == [Path("/data/a.wav"), tmp_path / "../b.wav"]


def test_blank_lines_and_a_byte_order_mark_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"audio": "a"}\r\n\n  \n{"audio": "b"}')
    assert [one.id for one in read(path)] == ["a", "b"]


def test_folder_with_a_manifest_is_one(tmp_path: Path) -> None:
    write_manifest(tmp_path / "manifest.jsonl", [LINE])
    assert [one.id for one in read(tmp_path)] == [LINE["id"]]


def test_lines_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", [LINE])
    with path.open("ab") as file:
        file.write(b"broken\n")
    lines = read(path)
    assert next(lines).id == LINE["id"]
    with pytest.raises(UsageError, match="line 2"):
        next(lines)


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"{", "no JSON"),
        (b"[1]", "no JSON object"),
        (b'{"audio": "a", "text": "\xff"}', "no JSON"),
        (b'{"text": "said"}', "no `audio`"),
        (b'{"audio": ""}', "no `audio`"),
        (b'{"audio": ["a"]}', "`audio` is no text"),
        (b'{"audio": "a\\u0000b"}', "`audio` is no path"),
        (b'{"audio": "a", "text": 1.5}', "`text` is no text"),
        (b'{"audio": "a", "speaker": {}}', "`speaker` is no text"),
        (b'{"audio": "a", "duration": -1}', "`duration`"),
        (b'{"audio": "a", "duration": NaN}', "`duration`"),
        (b'{"audio": "a", "duration": 1e999}', "`duration`"),
        (b'{"audio": "a", "duration": "long"}', "`duration`"),
        (b'{"audio": "a", "duration": ' + b"9" * 400 + b"}", "`duration`"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_broken_line_is_named_with_file_and_number(
    tmp_path: Path, line: bytes, complaint: str
) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(b'{"audio": "fine.wav"}\n' + line + b"\n")
    with pytest.raises(UsageError) as raised:
        list(read(path))
    assert raised.value.what.startswith(f"`{path}`, line 2: ")
    assert complaint in raised.value.what
    assert len(raised.value.what) < len(str(path)) + 200


def test_endless_line_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest_module, "LONGEST_LINE", 1 << 20)
    path = tmp_path / "m.jsonl"
    path.write_bytes(b"x" * (1 << 21))
    with pytest.raises(UsageError, match="line 1: it has more than 1 MiB"):
        list(read(path))


def test_missing_and_foreign_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputNotFound, match="no such manifest"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "talk.wav").write_bytes(b"RIFF")
    with pytest.raises(UsageError, match="is no manifest"):
        read(tmp_path / "talk.wav")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no recordings"):
        read(tmp_path / "empty")


def test_manifest_that_may_not_be_read_is_named(plain_user: Path) -> None:
    path = write_manifest(plain_user / "m.jsonl", [LINE])
    path.chmod(0)
    with pytest.raises(InputUnreadable, match=r"m\.jsonl"):
        list(read(path))


@given(st.binary(max_size=200))
def test_whatever_the_bytes_it_is_a_recording_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("hostile") / "m.jsonl"
    path.write_bytes(content)
    try:
        assert all(isinstance(one, Recording) for one in read(path))
    except StenoError as error:
        assert str(path) in error.what


@given(
    st.lists(
        st.fixed_dictionaries(
            {"audio": st.text(st.characters(exclude_characters="\0"), min_size=1)},
            optional={"text": st.text(), "duration": st.floats(0, 1e6), "speaker": st.text()},
        ),
        max_size=5,
    )
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, lines: list[dict[str, object]]
) -> None:
    folder = tmp_path_factory.mktemp("written")
    found = list(read(write_manifest(folder / "m.jsonl", lines)))
    assert [one.audio for one in found] == [folder / str(line["audio"]) for line in lines]
    assert [one.text for one in found] == [line.get("text") for line in lines]
    assert [one.duration for one in found] == [line.get("duration") for line in lines]
    assert json.dumps([one.speaker for one in found])
