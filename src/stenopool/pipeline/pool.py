"""The worker processes of this machine: started when there is work, stopped when there is none.

A process holds one model. It may crash, hang or eat memory; the pool sees it at once, lets others
go on with its work, and sees to it that what was being computed is tried again alone.
"""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import Any

import psutil

from stenopool.errors import EngineFailed
from stenopool.pipeline.events import event
from stenopool.pipeline.job import ANY_DEVICE, Group
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.liveness import Death, Register, release
from stenopool.pipeline.process import COMMAND, Begun, Spec, begin
from stenopool.pipeline.worker import DRAIN_SECONDS, FENCED, PAUSED_SECONDS, STALLED

SILENT_SECONDS = 45.0  # it says something every second, unless the whole process stands still
RECYCLED_SHARE = 0.8  # of the memory limit: a process that has grown so far ends between jobs
LOADING_SECONDS = 0.1  # of a core, that a process takes in the time for a stall if it does anything
LAST_WORDS_SECONDS = 2.0  # until what a dead process has said is read
WANTED_SECONDS = 5.0  # after the last time that a process was asked for in vain
TURN_SECONDS = 60.0  # that a model may keep a process while another one waits
EARLY_SECONDS = 20.0  # that an early process waits for work: files may look unfinished for so long
LONGEST_PAUSE = 60.0  # between starts of a process that does not come up
STILLBORN = 3  # processes that died before they were up: then the model counts as not loaded

# By these a process is ended from outside.
_FROM_OUTSIDE = frozenset({signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP})


Answer = Callable[[dict[str, Any]], None]
_DIED: dict[str, Any] = {
    "error": EngineFailed(
        "the worker process ended while it worked on this", do="Try again"
    ).record()
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What a pool keeps to.

    Attributes:
        most: processes; one more for those that work on one recording at a time.
        threads: cores for each; 0 is all.
        idle_seconds: without work, after which a process ends and its model is freed.
        stall_seconds: without getting on, after which a recording is given up, and a process
            that loads its model.
        memory_bytes: resident, of one process.
        device: `cpu` or `cuda`, for jobs that ask for it or do not care; `auto` takes all.
        models: to serve; none is all.
        reserved: serve this child of a batch only.
    """

    most: int = 1
    threads: int = 0
    idle_seconds: float = 60.0
    stall_seconds: float = 300.0
    memory_bytes: int = 0
    device: str = ANY_DEVICE
    models: tuple[str, ...] = ()
    reserved: str = ""


@dataclass(frozen=True, slots=True, order=True)
class Kind:
    """What tells processes apart."""

    group: Group
    alone: bool
    reserved: str


@dataclass
class Child:
    """A worker process, and what it said last.

    Attributes:
        heard: when it last said something, or, while it loads, had computed a little more.
        loaded_for: seconds of a core that it had taken then.
        news: set when it has begun or ended a job, or itself.
    """

    kind: Kind
    process: subprocess.Popen[str]
    id: str = ""
    ready: bool = False
    jobs: int = 0
    computing: frozenset[str] = frozenset()
    reading_seconds: float = 0.0
    suspect: str = ""
    error: dict[str, Any] | None = None
    killed_for: Death | None = None
    draining_since: float | None = None
    started: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    loaded_for: float = 0.0
    idle_since: float | None = None
    news: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.answers: dict[str, Answer] = {}
        self.listener = threading.Thread(target=self.listen, name="worker-lines", daemon=True)
        self._outbox: SimpleQueue[str] = SimpleQueue()
        self._writer = threading.Thread(target=self._write_all, name="worker-pipe", daemon=True)

    def start(self, database: str) -> None:
        """Tell it its database; hear it, and let it hear."""
        self.listener.start()
        self._write({"database": database})
        self._writer.start()

    def listen(self) -> None:
        """Take in what the process says, until it ends."""
        for line in self.process.stdout or ():
            try:
                said = json.loads(line)
            except ValueError:
                continue
            self.heard = time.monotonic()
            if "ask" in said or "live" in said:
                self._answered(said)
                continue
            self.id = said.get("id", self.id)
            self.ready = said.get("ready", self.ready)
            self.suspect = said.get("suspect", self.suspect)
            self.error = said.get("error", self.error)
            if "computing" in said:
                before, self.jobs = self.jobs, said["jobs"]
                self.computing = frozenset(said["computing"])
                self.reading_seconds = said["reading_seconds"]
                if self.jobs != before:
                    self.news.set()
        with self.lock:
            waiting, self.answers = list(self.answers.values()), {}
            self.process.wait()
        self.news.set()
        self._outbox.put("")
        for answer in waiting:
            answer(_DIED)

    def close(self) -> None:
        """Let go of the pipes; it has ended."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe and not self.listener.is_alive():
                with contextlib.suppress(OSError):  # of what it was told and did not read
                    pipe.close()

    def ask(self, request: dict[str, Any], answer: Answer) -> None:
        """Hand over a request or open a stream; the answers come on a thread of this child."""
        id = str(request.get("ask") or request["live"])
        with self.lock:
            if self.process.poll() is not None:
                answer(_DIED)
                return
            self.answers[id] = answer
        self._write(request)

    def drop(self, id: str) -> None:
        """Nobody waits for an answer any more."""
        if self.answers.pop(id, None):
            self._write({"drop": id})

    def say(self, id: str, **what: object) -> None:
        """Something more about a stream."""
        if id in self.answers:
            self._write({"live": id, **what})

    def _write(self, what: dict[str, Any]) -> None:
        """Without waiting: one that hangs does not read, and then its pipe is soon full."""
        self._outbox.put(json.dumps(what) + "\n")

    def _write_all(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # dead: its end is told apart
            while self.process.stdin and (line := self._outbox.get()):
                self.process.stdin.write(line)
                self.process.stdin.flush()

    def _answered(self, said: dict[str, Any]) -> None:
        id = str(said.get("ask") or said.get("live"))
        last = "closed" in said or "transcript" in said or ("ask" in said and "error" in said)
        if answer := self.answers.pop(id, None) if last else self.answers.get(id):
            answer(said)

    def drain(self) -> None:
        """Let it finish what it is reading, and end."""
        if self.draining_since is None:
            self.draining_since = time.monotonic()
            self.process.terminate()

    def kill(self, death: Death | None) -> None:
        """End it at once."""
        self.killed_for = death
        self.process.kill()

    def death(self) -> Death | None:
        """How it ended; None for in good order."""
        status = self.process.returncode
        if self.killed_for or self.draining_since is not None or status in {0, FENCED}:
            return self.killed_for
        if status == STALLED:
            return "stalled"
        return "lost" if -status in _FROM_OUTSIDE else "crashed"


class Pool:
    """Starts, watches and stops processes; `tick` and `check` must be called again and again.

    Args:
        database: URL that the processes open.
        failed: is told when a process cannot load its model, with the error's record.
        command: of a process; its `Spec` as JSON is added.
        early: a process that has begun already, for the first work that it can do.
    """

    def __init__(
        self,
        jobs: Jobs,
        database: str,
        limits: Limits,
        failed: Callable[[Group, dict[str, Any]], None],
        *,
        command: Sequence[str] = COMMAND,
        early: Begun | None = None,
    ) -> None:
        self.limits = limits
        self.children: list[Child] = []
        self.lost_seconds = 0.0  # of audio that was being read when a process died
        self.deaths = 0
        self.news = threading.Event()  # a process has begun or ended a job, or itself
        self._jobs = jobs
        self._register = Register(jobs.engine)
        self._database = database
        self._failed = failed
        self._command = command
        self._early = early
        self._checked = time.monotonic()
        self._early_until = time.monotonic() + EARLY_SECONDS
        self._pauses: dict[Kind, tuple[float, int]] = {}  # until when, after how many starts
        self._waiting_since: dict[Kind, float] = {}
        self._asked: dict[Kind, float] = {}  # until when a process is wanted for requests

    def tick(self, counts: dict[str, dict[str, int]]) -> None:
        """Look after the processes; start and stop some as the queues need it.

        Args:
            counts: as `Jobs.counts` gives them.
        """
        self._reap()
        waiting = self._waiting(counts) | self._wanted() if self.limits.most else set()
        self._stop_idle(waiting)
        if time.monotonic() > self._early_until:
            self._end_early()
        now = time.monotonic()
        for kind in sorted(waiting, key=lambda kind: (self._waiting_since.get(kind, now), kind)):
            self._serve(kind)
        self._waiting_since = {
            kind: since for kind, since in self._waiting_since.items() if kind in waiting
        }

    def ready(self, group: Group) -> Child | None:
        """The process with the fewest requests that takes more of them for a model; where there is
        none, one is wanted by now."""
        kind = Kind(group, alone=False, reserved=self.limits.reserved)
        found = [
            child
            for child in self.children
            if child.kind == kind
            and child.ready
            and child.draining_since is None
            # Else it died, and nobody has noticed yet.
            and child.process.poll() is None
        ]
        if found:
            return min(found, key=lambda child: len(child.answers))
        self._asked[kind] = time.monotonic() + WANTED_SECONDS
        return None

    def unfinished(self, counts: dict[str, dict[str, int]]) -> set[Group]:
        """What waits or runs, anywhere, that processes of this pool could do."""
        kinds = {self._kind(queue) for queue, count in counts.items() if any(count.values())}
        return {kind.group for kind in kinds if kind and self.limits.most}

    def ids(self) -> set[str]:
        """Of the processes that this pool looks after itself."""
        return {child.id for child in self.children if child.id}

    def stop(self) -> None:
        """End all processes; what is being read is finished."""
        self._end_early()
        for child in self.children:
            child.drain()
        until = time.monotonic() + DRAIN_SECONDS + 5
        while self.children and time.monotonic() < until:
            self._reap()
            time.sleep(0.05)
        for child in self.children:
            child.kill(None)
            child.process.wait()
        self._reap()

    def _wanted(self) -> set[Kind]:
        """Kinds for which requests wait, and none is there."""
        now = time.monotonic()
        up = {child.kind for child in self.children if child.ready}
        self._asked = {kind: at for kind, at in self._asked.items() if at > now and kind not in up}
        return set(self._asked)

    def _waiting(self, counts: dict[str, dict[str, int]]) -> set[Kind]:
        """Kinds for which something waits."""
        found = set()
        for queue, count in counts.items():
            kind = self._kind(queue)
            if kind and count.get("ENQUEUED", 0):
                found.add(kind)
        return found

    def _kind(self, queue: str) -> Kind | None:
        parsed = Group.of_queue(queue)
        if parsed is None:
            return None
        group, alone, reserved = parsed
        limits = self.limits
        if reserved != limits.reserved or (limits.models and group.model not in limits.models):
            return None
        if limits.device != ANY_DEVICE:
            if group.device not in {limits.device, ANY_DEVICE}:
                return None
            group = replace(group, device=limits.device)
        return Kind(group, alone, reserved)

    def _serve(self, kind: Kind) -> None:
        since = self._waiting_since.setdefault(kind, time.monotonic())
        own = [child for child in self.children if child.kind == kind]
        if own:  # its turn: others have waited longer from now on
            self._waiting_since[kind] = time.monotonic()
        if any(not child.ready or child.draining_since for child in own):
            return  # one is coming, or going
        if kind.alone:
            if not own:
                self._start(kind)
            return
        if sum(not child.kind.alone for child in self.children) < self.limits.most:
            self._start(kind)
        elif not own and time.monotonic() - since > TURN_SECONDS:
            oldest = min(self.children, key=lambda child: (child.kind.alone, child.started))
            oldest.drain()

    def _start(self, kind: Kind) -> None:
        until, _ = self._pauses.get(kind, (0.0, 0))
        if time.monotonic() < until:
            return
        limits = self.limits
        spec = Spec(
            kind.group,
            kind.alone,
            kind.reserved,
            limits.threads,
            limits.stall_seconds,
            in_company=limits.most > 1,
        )
        if self._early and self._early.spec == spec:
            begun, self._early = self._early, None
        else:
            begun = begin(spec, self._command)
        child = Child(kind, begun.process, news=self.news)
        child.start(self._database)
        self.children.append(child)
        event("worker_started", pid=child.process.pid, model=kind.group.model, alone=kind.alone)

    def _end_early(self) -> None:
        if self._early:
            self._early.end()
            self._early = None

    def _reap(self) -> None:
        for child in [one for one in self.children if one.process.poll() is not None]:
            self.children.remove(child)
            self._bury(child)

    def _bury(self, child: Child) -> None:
        child.listener.join(LAST_WORDS_SECONDS)
        child.close()
        death = child.death()
        self._pause(child)
        if child.error:
            self._failed(child.kind.group, child.error)
        suspects = {child.suspect} if child.suspect else set(child.computing)
        released: list[str] = []
        if child.id:
            released = release(self._jobs, child.id, death, suspects)
            self._register.remove(child.id)
        if death:
            self.deaths += 1
            self.lost_seconds += child.reading_seconds
        event(
            "worker_ended",
            logging.WARNING if death else logging.INFO,
            worker=child.id,
            pid=child.process.pid,
            status=child.process.returncode,
            death=death,
            released=released,
            lost_audio_seconds=child.reading_seconds if death else 0.0,
        )

    def _pause(self, child: Child) -> None:
        """What does not come up is not started again and again."""
        if child.ready or child.death() == "lost":
            self._pauses.pop(child.kind, None)
            return
        _, times = self._pauses.get(child.kind, (0.0, 0))
        pause = min(LONGEST_PAUSE, 2.0**times)
        self._pauses[child.kind] = (time.monotonic() + pause, times + 1)
        if times + 1 == STILLBORN and not child.error:
            what = f"the process for the model `{child.kind.group.model}` ends before it is up"
            error = EngineFailed(what, do="See what it says on stderr, and try `steno doctor`")
            self._failed(child.kind.group, {**error.record(), "exit_status": error.exit_status})

    def check(self) -> None:
        """End processes that hang or take more memory than they may; on any thread."""
        now = time.monotonic()
        paused, self._checked = now - self._checked > PAUSED_SECONDS, now
        for child in list(self.children):
            if paused:  # this process was: nobody could be heard
                child.heard = now
            if self.limits.memory_bytes:
                self._check_memory(child)
            if child.draining_since and now - child.draining_since > DRAIN_SECONDS + 5:
                child.kill(child.killed_for)
            elif not child.ready:
                self._check_loading(child, now)
            elif now - child.heard > SILENT_SECONDS:
                child.kill("stalled")

    def _check_loading(self, child: Child, now: float) -> None:
        """To load may take long, and then there is nothing to be heard; but who loads computes."""
        try:
            times = psutil.Process(child.process.pid).cpu_times()
        except psutil.Error:
            return
        used = times.user + times.system
        if used >= child.loaded_for + LOADING_SECONDS:
            child.loaded_for, child.heard = used, now
        elif now - child.heard > self.limits.stall_seconds:
            child.kill("stalled")

    def _check_memory(self, child: Child) -> None:
        try:
            used = psutil.Process(child.process.pid).memory_info().rss
        except psutil.Error:
            return
        if used > self.limits.memory_bytes:
            child.kill("memory")
        elif used > RECYCLED_SHARE * self.limits.memory_bytes and not child.computing:
            child.drain()  # what it computes must not be what makes it grow: it would never be told

    def _stop_idle(self, waiting: set[Kind]) -> None:
        now = time.monotonic()
        for child in self.children:
            if child.jobs or not child.ready or child.kind in waiting:
                child.idle_since = None
                continue
            child.idle_since = child.idle_since or now
            wanted = any(not kind.alone for kind in waiting) and not child.kind.alone
            if wanted or now - child.idle_since >= self.limits.idle_seconds:
                child.drain()
