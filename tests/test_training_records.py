"""Records of a training: what resuming keeps of them, and what TensorBoard finds in them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from stenopool.errors import OutputError
from stenopool.training.checkpoints import State
from stenopool.training.events import PREFIX, Events, _masked_crc
from stenopool.training.records import Records
from trainings import records as lines_of


def steps(records: Records, first: int, last: int) -> None:
    for step in range(first, last + 1):
        records.step(
            step,
            epoch=0,
            loss=1 / step,
            learning_rate=0.1,
            gradient=2.0,
            audio_seconds=3.0,
            seconds=0.5,
            waited=0.01,
        )


def evaluated(records: Records, step: int) -> None:
    state = State(step=step, best=0.5, best_step=step)
    records.evaluation(state, {"wer": 0.5, "loss": 1.0}, [{"id": "a", "reference": "b"}])


def test_lines_tell_of_ten_steps_each_and_of_evaluations(tmp_path: Path) -> None:
    records = Records(tmp_path, 0)
    steps(records, 1, 20)
    evaluated(records, 20)
    records.close()
    found = lines_of(tmp_path)
    assert [line["step"] for line in found] == [10, 20, 20]
    assert found[0]["loss"] == pytest.approx(sum(1 / n for n in range(1, 11)) / 10)
    assert (found[0]["waiting"], found[0]["audio_per_second"]) == (0.02, 6.0)
    assert found[2]["valid"] == {"wer": 0.5, "loss": 1.0}
    assert found[2]["memory_mb"] > 1
    for name in ("loss.png", "wer.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_resuming_forgets_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    records = Records(tmp_path, 0)
    steps(records, 1, 30)
    evaluated(records, 30)
    records.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "lo')  # killed while it wrote
    again = Records(tmp_path, 20)
    steps(again, 21, 30)
    evaluated(again, 30)
    again.close()
    assert [line["step"] for line in lines_of(tmp_path)] == [10, 20, 30, 30]
    assert [line["step"] for line in lines_of(tmp_path, "samples")] == [30]
    assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 1


def test_numbers_that_json_has_not_are_left_empty(tmp_path: Path) -> None:
    records = Records(tmp_path, 0)
    records.evaluation(State(step=1), {"loss": float("nan")}, [])
    records.close()
    assert lines_of(tmp_path)[0]["valid"] == {"loss": None}


def test_folder_that_is_gone_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        Records(tmp_path / "nowhere", 0)


# --- TensorBoard's format ----------------------------------------------------------------------


def events(path: Path) -> Iterator[bytes]:
    """The events of a file, their checksums verified."""
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert data[8:12] == _masked_crc(data[:8])
        event, data = data[12 : 12 + length], data[12 + length :]
        assert data[:4] == _masked_crc(event)
        data = data[4:]
        yield event


def test_checksum_is_that_of_the_standard() -> None:
    # RFC 3720, B.4: CRC-32C of 32 bytes of zeros is 8a9136aa, which TFRecord rotates and adds to.
    crc = 0x8A9136AA
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    assert _masked_crc(bytes(32)) == struct.pack("<I", masked)


def test_events_hold_version_steps_and_scalars(tmp_path: Path) -> None:
    written = Events(tmp_path)
    written.write(300, {"train/loss": 0.25})
    written.close()
    (path,) = tmp_path.glob(f"{PREFIX}*")
    version, scalar = events(path)
    assert version.endswith(b"\x1a\x0dbrain.Event:2")
    assert scalar[0] == 0x09  # wall time, a double
    assert scalar[9:12] == b"\x10\xac\x02"  # step 300
    value = b"\x0a\x0atrain/loss" + b"\x15" + struct.pack("<f", 0.25)
    assert scalar[12:] == b"\x2a\x13\x0a\x11" + value


def test_event_without_scalars_is_none(tmp_path: Path) -> None:
    written = Events(tmp_path)
    written.write(1, {})
    written.close()
    assert len(list(events(next(tmp_path.glob(f"{PREFIX}*"))))) == 1


def test_json_lines_of_other_things_are_not_taken_for_records(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('[1]\nnull\n{"step": "x"}\n{"step": 5, "loss": 1}\n')
    Records(tmp_path, 9).close()
    assert [json.dumps(line) for line in lines_of(tmp_path)] == ['{"step": 5, "loss": 1}']
