"""Batches by the clock. Every supervisor looks; each run happens once, a missed one is caught up.

DBOS has schedules too, but they need its runtime in every supervisor, which then is no longer
small, and after a pause they run everything that was missed, one run after the other.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import floor
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from croniter import CroniterBadDateError, croniter

from stenopool.bucket import open_bucket
from stenopool.errors import StenoError, UnknownName, UsageError
from stenopool.pipeline.batch import Batch, checked_name, submit
from stenopool.pipeline.database import batches, schedules
from stenopool.pipeline.events import event
from stenopool.pipeline.jobs import Jobs
from stenopool.pipeline.watch import Defaults

LONGEST_NAME = 60  # the names of its runs are those of batches, and say when

_DRAWN = re.compile(r"(?i)\b[hr]\b")  # croniter draws `R` by lot, and knows Jenkins' `H`


@dataclass(frozen=True, slots=True)
class Schedule:
    """When which batch is submitted.

    Attributes:
        cron: five fields, as in a crontab.
        timezone: that they are meant in.
        request: `bucket, children, defaults`.
        last: seconds since 1970 up to which runs were begun.
    """

    name: str
    cron: str
    timezone: str
    request: Mapping[str, Any]
    paused: bool
    last: float

    def due(self, now: float) -> float:
        """The last moment up to now that it names."""
        # The moment itself counts: croniter looks strictly before. In whole seconds: it rounds.
        here = datetime.fromtimestamp(floor(now) + 1, ZoneInfo(self.timezone))
        return float(croniter(self.cron, here).get_prev())

    def following(self, now: float) -> float:
        """The next moment after now."""
        here = datetime.fromtimestamp(floor(now), ZoneInfo(self.timezone))
        return float(croniter(self.cron, here).get_next())


def _is_cron(text: str) -> bool:
    """Whether an expression has five fields, and moments that are the same whoever asks."""
    if len(text.split()) != 5 or _DRAWN.search(text) or not croniter.is_valid(text):
        return False
    try:
        croniter(text, datetime.now(UTC)).get_next()
    except CroniterBadDateError:
        return False  # the 30th of February
    return True


class Schedules:
    """The schedules in one database."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def set(self, name: str, cron: str, timezone: str, request: Mapping[str, Any]) -> Schedule:
        """Make a schedule, or change it; it runs for the first time at its next moment.

        Raises:
            UsageError: the name, the cron expression or the time zone is none.
        """
        if not _is_cron(cron):
            raise UsageError(
                f"not a cron expression: `{cron}`",
                do="Give minute, hour, day, month and weekday, such as `0 1 * * *`",
            )
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise UsageError(
                f"no such time zone: `{timezone}`", do="Use a name such as `Europe/Berlin`"
            ) from error
        if len(checked_name(name)) > LONGEST_NAME:
            raise UsageError(f"not a name: `{name}`", do=f"Use up to {LONGEST_NAME} characters")
        made = Schedule(name, cron, timezone, dict(request), False, time.time())
        with self._jobs.engine.begin() as connection:
            connection.execute(sa.delete(schedules).where(schedules.c.name == name))
            values = {field: getattr(made, field) for field in Schedule.__slots__}
            connection.execute(sa.insert(schedules).values(values))
        return made

    def all(self) -> list[Schedule]:
        """By name."""
        with self._jobs.engine.connect() as connection:
            rows = connection.execute(sa.select(schedules).order_by(schedules.c.name)).all()
        return [Schedule(*row) for row in rows]

    def find(self, name: str) -> Schedule:
        """One schedule.

        Raises:
            UnknownName: there is none of this name.
        """
        for one in self.all():
            if one.name == name:
                return one
        raise UnknownName(f"no schedule `{name}`", do="See `steno batch schedules`")

    def pause(self, name: str, *, paused: bool) -> None:
        """Stop a schedule for now, or let it go on: what was missed meanwhile is not caught up."""
        self.find(name)
        change = sa.update(schedules).where(schedules.c.name == name)
        with self._jobs.engine.begin() as connection:
            connection.execute(change.values(paused=paused, last=time.time()))

    def delete(self, name: str) -> None:
        """Forget a schedule."""
        self.find(name)
        with self._jobs.engine.begin() as connection:
            connection.execute(sa.delete(schedules).where(schedules.c.name == name))

    def trigger(self, name: str) -> Batch | None:
        """Run it now, besides its moments."""
        return self._submit(self.find(name), "")

    def tick(self, now: float | None = None) -> list[str]:
        """Begin what is due; gives the names. Trouble with one keeps no other waiting."""
        moment = time.time() if now is None else now
        begun = []
        for one in self.all():
            try:
                if one.paused or (due := one.due(moment)) <= one.last:
                    continue
                self._begin(one, due)
                begun.append(one.name)
            except StenoError as error:
                event("schedule_failed", logging.ERROR, schedule=one.name, **error.record())
            except (ValueError, KeyError, TypeError) as error:
                # Set by another version, or on a machine that knows more time zones.
                what = f"{type(error).__name__}: {error}"
                event("schedule_failed", logging.ERROR, schedule=one.name, message=what)
        return begun

    def _begin(self, one: Schedule, due: float) -> None:
        """Submit the run of a moment, unless somebody has, then note that it was begun.

        In this order: who dies in between leaves a run that the next one finds.
        """
        run = f"{one.name}-{datetime.fromtimestamp(due, UTC):%Y%m%dT%H%MZ}".replace("+", "p")
        if not self._is_there(run):
            try:
                self._submit(one, run)
            except sa.exc.IntegrityError:
                event("schedule_taken", schedule=one.name, batch=run)  # at the same moment
        noted = sa.update(schedules).where(schedules.c.name == one.name, schedules.c.last < due)
        with self._jobs.engine.begin() as connection:
            connection.execute(noted.values(last=due))

    def _submit(self, one: Schedule, run: str) -> Batch | None:
        request = one.request
        batch = submit(
            self._jobs,
            open_bucket(str(request["bucket"])),
            Defaults.from_dict(request["defaults"]),
            int(request["children"]),
            schedule=one.name,
            batch_id=run,
        )
        event("batch", schedule=one.name, batch=batch.id if batch else None)
        return batch

    def _is_there(self, run: str) -> bool:
        with self._jobs.engine.connect() as connection:
            query = sa.select(batches.c.id).where(batches.c.id == run)
            return connection.execute(query).first() is not None
