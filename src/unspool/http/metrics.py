"""What a replica counts, for Prometheus: its own runs and viewers, not those of the whole installation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response

from unspool.jobs import Status
from unspool.manager import GenerationManager

_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _Replica(Collector):
    def __init__(self, manager: GenerationManager) -> None:
        self._manager = manager

    def describe(self) -> Iterator[Metric]:
        return iter(())

    def collect(self) -> Iterator[Metric]:
        if self._manager.closing:
            return
        found = self._manager.statistics()
        totals: dict[str, int] = found["totals"]
        for name, what, count in (
            ("runs", "Generations that run on this replica.", len(found["runs"])),
            ("viewers", "Viewers that follow on this replica.", found["viewers"]),
            ("tails", "Logs that are held in this replica's memory.", found["tails"]),
        ):
            yield GaugeMetricFamily(f"unspool_{name}", what, value=count)
        for name, what in (
            ("started", "Generations that were started or resumed here."),
            ("lost", "Generations whose lease went to somebody else."),
            ("appends", "Appends that the store accepted."),
            ("records", "Records in them."),
        ):
            yield CounterMetricFamily(f"unspool_{name}", what, value=totals.get(name, 0))
        settled = CounterMetricFamily("unspool_settled", "Generations that were sealed here.", labels=["status"])
        for status in Status:
            if status.settled:
                settled.add_metric([status], totals.get(status, 0))
        yield settled
        yield CounterMetricFamily(
            "unspool_passed_over", "Jobs of the store that could not be handled here.", value=found["passed_over"]
        )
        ledger: dict[str, int] = found["ledger"]
        for name, what in (
            ("up", "Whether the ledger's database answered last time."),
            ("pending", "Tasks of the ledger under way: settlements above all."),
            ("setbacks", "Calls and holds that the ledger's sweep could not settle, and tries again."),
        ):
            if name in ledger:
                yield GaugeMetricFamily(f"unspool_ledger_{name}", what, value=ledger[name])


def metrics(manager: GenerationManager) -> Callable[[Request], Awaitable[Response]]:
    """The handler of `/metrics`."""
    registry = CollectorRegistry()
    registry.register(_Replica(manager))

    async def handle(_: Request) -> Response:
        return Response(generate_latest(registry), media_type=_TYPE)

    return handle
