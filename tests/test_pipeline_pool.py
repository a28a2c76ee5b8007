"""The pool with puppets: processes that say what a worker says, and start in no time."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from pipelines import hold, imagined, notes_of, opened, queue_of, sqlite_url, wait_for
from stenopool.pipeline import database as database_module
from stenopool.pipeline import pool as pool_module
from stenopool.pipeline.job import FILES, SPANS, Group
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.liveness import Register
from stenopool.pipeline.pool import STILLBORN, Child, Limits, Pool
from stenopool.pipeline.process import Begun, Spec, begin
from stenopool.pipeline.worker import FENCED, STALLED, queues

# The last part of its model's name tells a puppet what to do.
PUPPET = """
import json, os, select, signal, sys
spec = json.loads(sys.argv[-1])
database = json.loads(sys.stdin.buffer.raw.readline())["database"]
does = spec["group"]["model"].rpartition("/")[2]
signal.signal(signal.SIGTERM, signal.SIG_IGN if does == "stubborn" else lambda *_: os._exit(0))
def tell(**what):
    print(json.dumps(what), flush=True)
tell(id=f"puppet-{os.getpid()} of {database}")
if does == "unloadable":
    tell(error={"code": "model_not_pulled", "message": "no", "hint": "Pull", "exit_status": 4})
    sys.exit(4)
if does == "bomb":
    os.abort()
while does == "loading":
    pass
if does != "slow":
    tell(ready=True)
if does in ("busy", "hungry"):
    tell(jobs=2, computing=["one"], reading_seconds=7.5)
hoard = b"x" * 2**26 if does in ("hungry", "grown") else b""
if does == "chatty":
    print("no JSON at all", flush=True)
while not select.select([0], [], [], 0.05)[0]:
    pass  # signals are noticed between two waits
"""
HUNGRY_BYTES = 2**26
COMMAND = [sys.executable, "-S", "-E", "-c", PUPPET]

Counts = dict[str, dict[str, int]]


class Played(Pool):
    """A pool whose ticks can be waited for."""

    def until(self, true: Callable[[], object], counts: Counts | None = None) -> None:
        def tick() -> object:
            self.tick(counts or {})
            self.check()
            return true()

        wait_for(tick)

    def up(self, *models: str, most: int = 1) -> list[Child]:
        """Processes for models, which are ready."""
        wanted = waiting(*models)
        self.until(lambda: len(self.children) == most and self.are_ready(), wanted)
        return self.children

    def are_ready(self) -> bool:
        return all(child.ready for child in self.children)


def waiting(*models: str, **kind: Any) -> Counts:
    """Something waits for these models."""
    return {Group(model).queue(FILES, **kind): {"ENQUEUED": 1} for model in models}


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    with opened(sqlite_url(tmp_path)) as found:
        yield found


@pytest.fixture
def failures() -> list[tuple[Group, dict[str, Any]]]:
    return []


@pytest.fixture
def pool(
    jobs: Jobs, failures: list[tuple[Group, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Played]]:
    """Makes pools of puppets."""
    made = []

    def make(early: Begun | None = None, **limits: Any) -> Played:
        def failed(group: Group, error: dict[str, Any]) -> None:
            failures.append((group, error))

        given = (jobs, "sqlite:///x", Limits(**limits), failed)
        made.append(Played(*given, command=COMMAND, early=early))
        return made[-1]

    yield make
    monkeypatch.setattr(pool_module, "DRAIN_SECONDS", -5.0)  # stubborn ones end with the test
    for one in made:
        one.stop()


def pids(pool: Pool) -> list[int]:
    return [child.process.pid for child in pool.children]


def spec_of(child: Child) -> Spec:
    assert isinstance(child.process.args, list)
    return Spec.from_json(str(child.process.args[-1]))


def enter(jobs: Jobs, child: Child) -> None:
    """Let the puppet be in the register, as a worker is."""
    row = {"host": "here", "pid": 1, "born": "1", "group": "", "beat": 0, "since": 0.0}
    with jobs.engine.begin() as connection:
        connection.execute(sa.insert(database_module.workers).values({"id": child.id, **row}))


# --- how many ----------------------------------------------------------------------------------


def test_without_work_there_is_no_process(pool: Callable[..., Played]) -> None:
    found = pool(most=3)
    queue = Group("fine").queue(FILES)
    for counts in ({}, {queue: {"PENDING": 3}}, {queue: {"DELAYED": 3}}):
        found.tick(counts)
    assert found.children == []


def test_one_process_comes_up_before_the_next_is_started(pool: Callable[..., Played]) -> None:
    found = pool(most=3)
    for _ in range(3):
        found.tick(waiting("slow"))
    assert len(found.children) == 1


def test_there_are_as_many_processes_as_are_allowed_while_work_waits(
    pool: Callable[..., Played],
) -> None:
    found = pool(most=2)
    found.up("fine", most=2)
    for _ in range(3):
        found.tick(waiting("fine"))
    assert len(found.children) == 2


def test_no_process_means_none(
    pool: Callable[..., Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "TURN_SECONDS", 0.0)
    found = pool(most=0)
    for _ in range(3):
        found.tick(waiting("fine") | waiting("other/fine", alone=True))
        time.sleep(0.01)
    assert found.children == []


def test_what_is_left_is_what_processes_of_this_pool_could_do(pool: Callable[..., Played]) -> None:
    states = ("ENQUEUED", "PENDING", "DELAYED")
    counts = {Group(state).queue(FILES): {state: 1} for state in states}
    counts[Group("alone").queue(FILES, alone=True)] = {"PENDING": 1}
    counts |= waiting("reserved", reserved="night.1") | {"0/a/b/files///old": {"ENQUEUED": 1}}
    counts[Group("gpu", device="cuda").queue(FILES)] = {"ENQUEUED": 1}
    names = {group.model for group in pool(device="cpu").unfinished(counts)}
    assert names == {*states, "alone"}
    assert pool(most=0).unfinished(counts) == set()
    assert pool(models=("other",)).unfinished(counts) == set()
    assert {group.model for group in pool(reserved="night.1").unfinished(counts)} == {"reserved"}


def test_process_is_told_what_it_is_for(pool: Callable[..., Played]) -> None:
    found = pool(threads=3, stall_seconds=7.0)
    group = Group("/srv/a model/fine", "openvino", "cpu")
    found.tick({group.queue(SPANS): {"ENQUEUED": 1}})
    (child,) = found.children
    assert spec_of(child) == Spec(group, threads=3, stall_seconds=7.0)
    found.until(lambda: child.id.endswith("of sqlite:///x"))
    assert "sqlite" not in str(child.process.args)  # a URL may hold a password


def test_process_that_has_begun_does_the_first_work_it_can(pool: Callable[..., Played]) -> None:
    early = begin(Spec(Group("fine"), in_company=True), COMMAND)
    found = pool(most=2, early=early)
    found.until(lambda: len(found.children) == 2, waiting("fine", "other/fine"))
    assert early.process in [child.process for child in found.children]
    found.until(found.are_ready)


def test_process_that_has_begun_in_vain_is_ended(
    pool: Callable[..., Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "EARLY_SECONDS", 0.2)
    early = [begin(Spec(Group("fine"), threads=threads), COMMAND) for threads in (2, 3)]
    late, stopped = (pool(early=one) for one in early)
    stopped.tick(waiting("fine"))  # this would be with another number of threads
    assert [child.process for child in stopped.children] != [early[1].process]
    stopped.stop()
    assert early[1].process.poll() is not None
    late.until(lambda: early[0].process.poll() is not None)
    assert late.children == []


# --- for whom ----------------------------------------------------------------------------------


def test_only_models_that_it_is_to_serve_get_processes(pool: Callable[..., Played]) -> None:
    found = pool(most=3, models=("fine",))
    found.tick(waiting("fine", "other/fine"))
    assert [child.kind.group.model for child in found.children] == ["fine"]


@pytest.mark.parametrize(("device", "served"), [("cpu", 1), ("cuda", 0), ("auto", 1)])
def test_device_that_is_not_here_is_not_served(
    pool: Callable[..., Played], device: str, served: int
) -> None:
    found = pool(device=device)
    found.tick({Group("fine", device="cpu").queue(FILES): {"ENQUEUED": 1}})
    assert len(found.children) == served


def test_jobs_that_do_not_care_go_with_those_of_the_device(pool: Callable[..., Played]) -> None:
    found = pool(most=2, device="cpu")
    named = [Group("slow", device=device).queue(FILES) for device in ("cpu", "auto")]
    found.tick({queue: {"ENQUEUED": 1} for queue in named})
    (child,) = found.children
    assert set(named) <= queues(spec_of(child)).keys()


def test_lists_of_a_batch_are_for_its_own_processes(pool: Callable[..., Played]) -> None:
    common, own = pool(), pool(reserved="night.1")
    counts = {
        **waiting("fine", reserved="night.1"),
        **waiting("other/fine", reserved="night.2"),
    }
    common.tick(counts)
    own.tick({**counts, **waiting("third/fine")})
    assert common.children == []
    (child,) = own.children
    assert (spec_of(child).group.model, spec_of(child).reserved) == ("fine", "night.1")


def test_queues_of_others_are_none_of_its_business(pool: Callable[..., Played]) -> None:
    found = pool()
    found.tick({"_dbos_internal_queue": {"ENQUEUED": 1}, "0/a/b/files///fine": {"ENQUEUED": 1}})
    assert found.children == []


def test_those_that_are_tried_alone_get_one_more_process_of_their_own(
    pool: Callable[..., Played],
) -> None:
    found = pool(most=1)
    counts = waiting("fine") | waiting("fine", alone=True)
    found.until(lambda: len(found.children) == 2 and found.are_ready(), counts)
    found.tick(counts)
    assert sorted(spec_of(child).alone for child in found.children) == [False, True]
    alone = next(child for child in found.children if child.kind.alone)
    served = [Group.of_queue(queue) for queue in queues(spec_of(alone))]
    assert [found[1] for found in served if found] == [True] * 2


# --- in turn -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), [("a/fine", "b/fine"), ("b/fine", "a/fine")])
def test_second_model_waits_its_turn_and_gets_it(
    pool: Callable[..., Played], monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    monkeypatch.setattr(pool_module, "TURN_SECONDS", 0.3)
    found = pool(most=1)
    found.up(first)
    begun = time.monotonic()
    models: set[str] = set()

    def has_turn(model: str) -> bool:
        models.update(child.kind.group.model for child in found.children)
        return [child.kind.group.model for child in found.children if child.ready] == [model]

    found.until(lambda: has_turn(second), waiting(first, second))
    assert time.monotonic() - begun >= 0.3
    found.until(lambda: has_turn(first), waiting(first, second))
    assert models == {first, second}


def test_idle_process_makes_room_for_another_model_at_once(pool: Callable[..., Played]) -> None:
    found = pool(most=1, idle_seconds=600)
    (first,) = found.up("a/fine")
    found.until(lambda: [one.kind.group.model for one in found.children] == ["b/fine"],
                waiting("b/fine"))  # fmt: skip
    assert first.process.returncode == 0


def test_idle_process_is_ended(pool: Callable[..., Played]) -> None:
    found = pool(idle_seconds=0.2)
    (child,) = found.up("fine")
    begun = time.monotonic()
    found.until(lambda: not found.children)
    assert time.monotonic() - begun >= 0.2
    assert child.process.returncode == 0


def test_process_with_work_is_not_idle(pool: Callable[..., Played]) -> None:
    found = pool(idle_seconds=0.0)
    (child,) = found.up("busy")
    wait_for(lambda: child.jobs == 2)
    for _ in range(3):
        found.tick({})
    assert child.draining_since is None


def test_process_for_which_something_waits_is_not_idle(pool: Callable[..., Played]) -> None:
    found = pool(idle_seconds=0.0)
    (child,) = found.up("fine")
    for _ in range(3):
        found.tick(waiting("fine"))
    assert child.draining_since is None


# --- what dies ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "death"),
    [
        (signal.SIGKILL, "lost"),
        (signal.SIGHUP, "lost"),
        (signal.SIGSEGV, "crashed"),
        (signal.SIGABRT, "crashed"),
    ],
)
def test_work_of_a_process_that_died_is_released_at_once(
    pool: Callable[..., Played], jobs: Jobs, number: int, death: str
) -> None:
    found = pool()
    (child,) = found.up("busy")
    wait_for(lambda: child.reading_seconds)
    enter(jobs, child)
    ids = hold_two(jobs, child)
    os.kill(child.process.pid, number)
    found.until(lambda: not found.children)
    alone = Group("scripted").queue(FILES, alone=True)
    assert [queue_of(jobs, one) for one in ids] == [alone, Group("scripted").queue(FILES)]
    assert [jobs.find(one).state for one in ids] == ["waiting", "waiting"]
    assert notes_of(jobs, ids[0])["died"] == {death: 1}
    assert Register(jobs.engine).all() == []
    assert (found.deaths, found.lost_seconds) == (1, 7.5)


def hold_two(jobs: Jobs, child: Child) -> list[str]:
    """Two jobs of a puppet, which computes the first one."""
    made = [imagined("one"), imagined("two")]
    jobs.submit(made)
    for job_id, _ in made:
        hold(jobs, job_id, child.id)
    child.computing = frozenset({made[0][0]})
    return [job_id for job_id, _ in made]


@pytest.mark.parametrize(("status", "death"), [(STALLED, "stalled"), (FENCED, None), (0, None)])
def test_exit_status_says_how_it_ended(status: int, death: str | None) -> None:
    child = Child(pool_module.Kind(Group("fine"), False, ""), process_with(status))
    assert child.death() == death


@pytest.mark.parametrize("status", [-signal.SIGSEGV, -signal.SIGKILL, STALLED, 1])
def test_process_that_was_told_to_end_did_not_die(status: int) -> None:
    child = Child(pool_module.Kind(Group("fine"), False, ""), process_with(status))
    child.draining_since = 1.0
    assert child.death() is None


def process_with(status: int) -> Any:
    """What a `Popen` knows of a process that has ended."""
    return type("Ended", (), {"returncode": status})()


def test_only_what_stalled_is_blamed_for_a_stall(pool: Callable[..., Played], jobs: Jobs) -> None:
    found = pool()
    (child,) = found.up("busy")
    wait_for(lambda: child.reading_seconds)
    first, second = hold_two(jobs, child)
    child.computing, child.suspect = frozenset({first, second}), second
    child.kill("stalled")
    found.until(lambda: not found.children)
    assert notes_of(jobs, first) == {}
    assert notes_of(jobs, second)["died"] == {"stalled": 1}


def test_silent_process_is_ended_as_one_that_hangs(
    pool: Callable[..., Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "SILENT_SECONDS", 0.2)
    found = pool(stall_seconds=0.1)
    (child,) = found.up("fine")
    found.until(lambda: not found.children)
    assert child.process.returncode == -signal.SIGKILL
    assert child.death() == "stalled"


def test_process_that_computes_before_it_is_up_may_be_silent(
    pool: Callable[..., Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "SILENT_SECONDS", 0.0)
    monkeypatch.setattr(pool_module, "LOADING_SECONDS", 0.02)
    found = pool(stall_seconds=1.0)
    found.tick(waiting("loading"))
    (child,) = found.children
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        found.check()
        time.sleep(0.02)
    assert child.killed_for is None


def test_process_that_hangs_before_it_is_up_is_ended_and_its_model_reported(
    pool: Callable[..., Played],
    failures: list[tuple[Group, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "LONGEST_PAUSE", 0.0)
    found = pool(stall_seconds=0.2)
    found.until(lambda: failures, waiting("slow"))
    assert found.deaths == STILLBORN
    assert [(group.model, error["code"]) for group, error in failures] == [
        ("slow", "engine_failed")
    ]


def test_nobody_is_blamed_for_the_time_in_which_the_pool_itself_was_stopped(
    pool: Callable[..., Played], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-Z, or by a laptop that sleeps."""
    monkeypatch.setattr(pool_module, "PAUSED_SECONDS", 0.2)
    found = pool(stall_seconds=0.3)
    found.tick(waiting("slow"))
    (child,) = found.children
    found.check()
    time.sleep(0.5)
    found.check()
    assert child.killed_for is None


def test_process_that_uses_too_much_memory_is_ended(
    pool: Callable[..., Played], jobs: Jobs
) -> None:
    found = pool(memory_bytes=HUNGRY_BYTES)
    found.tick(waiting("hungry"))
    (child,) = found.children
    found.until(lambda: not found.children)
    assert child.death() == "memory"
    assert found.deaths == 1


def test_process_that_has_grown_is_ended_in_good_order(pool: Callable[..., Played]) -> None:
    found = pool(memory_bytes=round(HUNGRY_BYTES * 1.3), idle_seconds=600)
    (child,) = found.up("grown")
    found.until(lambda: child.draining_since is not None)
    found.until(lambda: not found.children)
    assert (child.process.returncode, child.death()) == (0, None)


def test_process_of_ordinary_size_is_left_alone(pool: Callable[..., Played]) -> None:
    found = pool(memory_bytes=HUNGRY_BYTES, idle_seconds=600)
    (child,) = found.up("fine")
    for _ in range(3):
        found.tick({})
    assert (child.draining_since, child.killed_for) == (None, None)


def test_line_that_is_no_json_is_passed_over(pool: Callable[..., Played]) -> None:
    found = pool()
    (child,) = found.up("chatty")
    assert child.ready


# --- what does not come up ---------------------------------------------------------------------


def test_model_that_cannot_be_loaded_is_reported_and_not_tried_all_the_time(
    pool: Callable[..., Played],
    failures: list[tuple[Group, dict[str, Any]]],
) -> None:
    found = pool()
    _tick_for(found, waiting("unloadable"), seconds=1.5)
    assert [(group.model, error["code"]) for group, error in failures][:1] == [
        ("unloadable", "model_not_pulled")
    ]
    assert len(failures) <= 2


def test_process_that_dies_before_it_is_up_is_not_started_all_the_time(
    pool: Callable[..., Played],
) -> None:
    found = pool()
    started = _tick_for(found, waiting("bomb"), seconds=1.5)
    assert 1 <= started <= 2


def test_process_that_dies_again_and_again_before_it_is_up_is_reported_once(
    pool: Callable[..., Played],
    failures: list[tuple[Group, dict[str, Any]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool_module, "LONGEST_PAUSE", 0.0)
    found = pool()
    assert _tick_for(found, waiting("bomb"), seconds=1.0) > STILLBORN
    assert [(group.model, error["code"]) for group, error in failures] == [
        ("bomb", "engine_failed")
    ]
    assert failures[0][1]["exit_status"] == 5


def test_process_that_is_killed_before_it_is_up_says_nothing_of_its_model(
    pool: Callable[..., Played], failures: list[tuple[Group, dict[str, Any]]]
) -> None:
    found = pool()
    for _ in range(STILLBORN + 1):
        found.until(lambda: found.children, waiting("slow"))
        (child,) = found.children
        child.process.kill()
        child.process.wait()
    assert failures == []


def test_model_that_does_not_come_up_keeps_no_other_waiting(pool: Callable[..., Played]) -> None:
    found = pool(most=1)
    found.until(
        lambda: [one.kind.group.model for one in found.children if one.ready] == ["z/fine"],
        waiting("a/bomb", "z/fine"),
    )


def _tick_for(pool: Played, counts: Counts, *, seconds: float) -> int:
    """How many processes were started meanwhile."""
    seen: set[int] = set()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pool.tick(counts)
        seen.update(pids(pool))
        time.sleep(0.01)
    return len(seen)


# --- the end -----------------------------------------------------------------------------------


def test_stopped_pool_has_no_processes(pool: Callable[..., Played], jobs: Jobs) -> None:
    found = pool(most=2)
    children = [*found.up("busy", most=2)]
    ids = hold_two(jobs, children[0])
    found.stop()
    assert found.children == []
    assert [child.process.returncode for child in children] == [0, 0]
    assert [jobs.find(one).state for one in ids] == ["waiting", "waiting"]
    assert [notes_of(jobs, one) for one in ids] == [{}, {}]
    assert found.deaths == 0


def test_process_that_does_not_want_to_end_is_ended(
    pool: Callable[..., Played], monkeypatch: pytest.MonkeyPatch, jobs: Jobs
) -> None:
    monkeypatch.setattr(pool_module, "DRAIN_SECONDS", -4.8)  # and five more
    found = pool(idle_seconds=0.0)
    (child,) = found.up("stubborn")
    ids = hold_two(jobs, child)
    found.until(lambda: not found.children)
    assert child.process.returncode == -signal.SIGKILL
    assert [notes_of(jobs, one) for one in ids] == [{}, {}]


def test_ended_processes_leave_no_open_files(pool: Callable[..., Played]) -> None:
    found = pool(idle_seconds=0.0)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    for _ in range(3):
        found.up("fine")
        found.until(lambda: not found.children)
    assert len(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208


def test_spec_survives_the_command_line() -> None:
    spec = Spec(Group("ä b", "openvino", "cpu"), True, "night.1", 2, 1.5)
    assert Spec.from_json(spec.to_json()) == spec
    assert json.loads(spec.to_json())["threads"] == 2
