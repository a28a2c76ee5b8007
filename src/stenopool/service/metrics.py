"""What the server counts, as Prometheus reads it. Names and figures, never content."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from stenopool.pipeline.queue import depths
from stenopool.pipeline.supervisor import Supervisor
from stenopool.service.engines import Engines

SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
UNKNOWN = "other"  # route of a request that fits none: names that strangers make up are not kept


class Metrics:
    """The figures of one server."""

    def __init__(self, supervisor: Supervisor, engines: Engines) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_Now(supervisor, engines))
        self._requests = Counter(
            "steno_requests", "Requests.", ("method", "route", "status"), registry=self._registry
        )
        self._seconds = Histogram(
            "steno_request_seconds",
            "Seconds that requests took.",
            ("route",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._audio = Counter(
            "steno_audio_seconds", "Seconds of audio transcribed.", registry=self._registry
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request has ended."""
        self._requests.labels(method, route or UNKNOWN, str(status)).inc()
        self._seconds.labels(route or UNKNOWN).observe(seconds)

    def heard(self, seconds: float) -> None:
        """Audio was transcribed."""
        self._audio.inc(seconds)

    def text(self) -> bytes:
        """All of it."""
        return generate_latest(self._registry)


class _Now(Collector):
    """What stands at the moment of asking."""

    def __init__(self, supervisor: Supervisor, engines: Engines) -> None:
        self._supervisor = supervisor
        self._engines = engines

    def collect(self) -> Iterable[GaugeMetricFamily]:
        pool = self._supervisor.pool
        yield _gauge("steno_requests_waiting", "Requests that wait.", self._engines.queued)
        yield _gauge("steno_processes", "Worker processes of this server.", len(pool.children))
        yield _gauge("steno_process_deaths", "Worker processes that died.", pool.deaths)
        found = depths(self._supervisor.jobs)
        for name in ("waiting", "running", "spans_waiting", "spans_running", "workers"):
            labels = ("model", "device")
            gauge = GaugeMetricFamily(f"steno_queue_{name}", f"Jobs: {name}.", labels=labels)
            for one in found:
                gauge.add_metric((one.model, one.device), getattr(one, name))
            yield gauge


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value=value)
