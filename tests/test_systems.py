"""Recognisers in processes of their own, whatever happens in there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

import recognisers
from commands import OPENING
from stenopool.decoding.options import Options
from stenopool.errors import EngineFailed, ModelDamaged, NotMedia, UnsupportedOption
from stenopool.evaluation.systems import Answer, Recipe, System, exit_status, ours, recorded

if TYPE_CHECKING:
    from stenopool import Transcriber

ENDS_WITHIN = 20.0  # seconds


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """The child finds the module that this folder has for it."""
    monkeypatch.setenv("PYTHONPATH", str(Path(recognisers.__file__).parent))


def system(factory: str = "scripted", *, patience: float | None = None, threads: int = 1) -> System:
    return System("fake", Recipe(f"recognisers:{factory}", {}, threads), patience=patience)


def texts(answers: list[Answer]) -> list[str]:
    return [answer.text for answer in answers]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until_gone(pid: int) -> bool:
    until = time.monotonic() + ENDS_WITHIN
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)


def test_answers_come_in_the_order_of_the_recordings() -> None:
    with system() as one:
        found = list(one.transcribe([Path("b"), Path("a"), Path("c")]))
    assert texts(found) == ["heard b", "heard a", "heard c"]
    assert all(answer.error is None and answer.seconds >= 0 for answer in found)


def test_names_of_any_bytes_and_letters_arrive() -> None:
    names = ["naïve Ünïcode 日本語", "two\nlines", "not\udcffutf-8"]
    with system() as one:
        found = list(one.transcribe([Path(name) for name in names]))
    assert texts(found) == [f"heard {name}" for name in names]


def test_what_a_library_prints_disturbs_nobody() -> None:
    with system() as one:
        assert texts(list(one.transcribe([Path("junk"), Path("next")]))) == [
            "heard junk",
            "heard next",
        ]


def test_failed_recording_is_an_answer_and_the_next_is_heard() -> None:
    with system() as one:
        failed, fault, sound = one.transcribe([Path("not-media"), Path("fault"), Path("a")])
    assert failed.error == {
        "code": "not_media",
        "message": "no decoder understands `not-media`",
        "hint": "Give a recording",
        "transient": False,
    }
    assert fault.error is not None
    assert fault.error["code"] == "engine_failed"
    assert "ValueError: a fault" in str(fault.error["message"])
    assert (failed.text, fault.text, sound.text) == ("", "", "heard a")


def test_crash_is_told_with_signal_task_and_last_words() -> None:
    with system() as one:
        answers = one.transcribe([Path("a"), Path("crash"), Path("b")])
        assert next(answers).text == "heard a"
        with pytest.raises(EngineFailed) as caught:
            next(answers)
    assert "SIGSEGV" in caught.value.what
    assert "transcribe `crash`" in caught.value.what
    assert caught.value.what.endswith("the last words")


def test_exit_of_the_process_is_told_with_its_status() -> None:
    with system() as one, pytest.raises(EngineFailed, match="ended with status 3"):
        list(one.transcribe([Path("exit")]))


def test_request_after_a_crash_fails_too() -> None:
    with system() as one:
        with pytest.raises(EngineFailed):
            list(one.transcribe([Path("exit")]))
        with pytest.raises(EngineFailed, match="ended with status 3"):
            one.figures()


def test_crashed_system_can_be_entered_again() -> None:
    one = system()
    with one, pytest.raises(EngineFailed):
        list(one.transcribe([Path("crash")]))
    with one:
        assert texts(list(one.transcribe([Path("a")]))) == ["heard a"]


def test_hang_ends_with_the_patience() -> None:
    begun = time.monotonic()
    with system(patience=3.0) as one, pytest.raises(EngineFailed, match="within 3 s"):
        list(one.transcribe([Path("hang")]))
    assert time.monotonic() - begun < ENDS_WITHIN


def test_leaving_ends_the_process_and_all_that_it_started() -> None:
    with system() as one:
        (answer,) = one.transcribe([Path("child")])
        assert alive(int(answer.text))
    assert wait_until_gone(int(answer.text))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_hung_process_does_not_outlive_its_parent(how: signal.Signals) -> None:
    script = """
from pathlib import Path
from stenopool.evaluation.systems import Recipe, System
with System("fake", Recipe("recognisers:scripted", {}, 1)) as one:
    (child,) = one.transcribe([Path("child")])
    print(child.text, one._process._child.pid, flush=True)
    list(one.transcribe([Path("hang")]))
"""
    parent = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert parent.stdout
    with parent.stdout:
        pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    assert all(map(alive, pids))
    parent.send_signal(how)
    parent.wait(ENDS_WITHIN)
    assert all(map(wait_until_gone, pids))


def test_error_while_loading_is_raised_as_itself() -> None:
    one = system("damaged")
    with pytest.raises(ModelDamaged, match="cut off") as caught, one:
        pass
    assert caught.value.do == "Pull it again"
    assert one._process is None


def test_factory_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EngineFailed, match="no attribute 'none'"), system("none"):
        pass


def test_system_that_was_not_entered_says_so() -> None:
    with pytest.raises(EngineFailed, match="not running"):
        list(system().transcribe([Path("a")]))


def test_abandoned_iteration_does_not_answer_the_next_request() -> None:
    with system("together") as one:
        assert next(one.transcribe([Path("a"), Path("b"), Path("c")], together=True)).text == "3"
        assert texts(list(one.transcribe([Path("d")]))) == ["1"]


def test_together_is_one_call() -> None:
    paths = [Path(name) for name in "abc"]
    with system("together") as one:
        assert texts(list(one.transcribe(paths))) == ["1", "1", "1"]
        assert texts(list(one.transcribe(paths, together=True))) == ["3", "3", "3"]


def test_answers_that_are_missing_are_errors() -> None:
    with system("together") as one:
        found = list(one.transcribe([Path(name) for name in "abcde"], together=True))
    assert texts(found) == ["5", "5", "5", "", ""]
    assert [bool(answer.error) for answer in found] == [False, False, False, True, True]


def test_no_recordings_are_no_answers() -> None:
    with system() as one:
        assert list(one.transcribe([])) == []
        assert list(one.transcribe([], together=True)) == []


def test_figures_tell_what_it_cost() -> None:
    with system(threads=2) as one:
        before = one.figures()
        list(one.transcribe([Path("compute"), Path("memory")]))
        after = one.figures()
    assert after.cpu_seconds - before.cpu_seconds >= 0.3
    assert 300e6 < after.peak_memory - before.peak_memory < 400e6
    assert after.versions == {"numpy": np.__version__}
    assert (after.threads, after.detail) == (2, "script")
    assert 0 <= after.load_seconds <= after.start_seconds


def test_peak_memory_is_not_that_of_the_parent() -> None:
    block = np.ones(400 * recognisers.MEGABYTE, dtype=np.uint8)
    with system() as one:
        assert one.figures().peak_memory < 300e6
    assert block[-1]


def test_libraries_are_told_threads_and_no_network() -> None:
    with system(threads=3) as one:
        (answer,) = one.transcribe([Path("environment")])
    seen = json.loads(answer.text)
    assert seen["OMP_NUM_THREADS"] == seen["OPENBLAS_NUM_THREADS"] == "3"
    assert seen["HF_HUB_OFFLINE"] == seen["STENO_OFFLINE"] == "1"


def test_error_has_the_class_and_status_of_its_code() -> None:
    error = recorded({"code": "not_media", "message": "what", "hint": "do", "transient": False})
    assert type(error) is NotMedia
    assert (error.what, error.do) == ("what", "do")
    assert exit_status("model_damaged") == ModelDamaged.exit_status
    assert exit_status("of a later version") == EngineFailed.exit_status


def test_ours_hears_what_the_transcriber_hears(
    speech_wav: Path,
    transcriber: Transcriber,
    models_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("STENO_MODELS_DIR", str(models_dir))
    options = Options(beam_size=1)
    with ours(models_dir / "tiny.en", threads=1, options=options, name="tiny") as one:
        paths = [speech_wav, tmp_path / "none.wav"]
        heard, missing = one.transcribe(paths)
        both = list(one.transcribe(paths, together=True))
        figures = one.figures()
    assert heard.text.startswith(OPENING)
    assert heard.text == transcriber.transcribe(speech_wav, options).text
    assert missing.error is not None
    assert missing.error["code"] == "input_not_found"
    assert both[0].text.startswith(OPENING)
    assert [answer.error for answer in both] == [None, missing.error]
    assert one.name == "tiny"
    assert figures.detail.endswith("beam 1")
    assert "stenopool" in figures.versions


def test_option_that_the_model_cannot_honour_is_refused_when_entered(
    models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STENO_MODELS_DIR", str(models_dir))
    with pytest.raises(UnsupportedOption), ours("tiny.en", options=Options(language="de")):
        pass
