"""What a replica tells Prometheus."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Serving
from unspool import GenerationManager
from unspool.http import StartRequest, create_app
from unspool.producer import Generation
from unspool.sse import Decoder


async def words(gen: Generation, request: StartRequest) -> None:
    await gen.emit("custom", {"name": "n"})
    await gen.emit("custom", {"name": "m"})


async def test_metrics_count_what_happened_here(serving: Serving) -> None:
    """Runs that were started, how they ended, what was written; in the format that Prometheus reads."""
    app = create_app(GenerationManager(), run=words)
    async with serving(app) as client:
        for name in ("a", "b"):
            started = await client.post(f"/v1/streams/{name}/generations", json={"messages": [{"role": "user"}]})
            assert started.status_code == 201
            found = Decoder().feed((await client.get(f"/v1/streams/{name}/events")).content)
            assert found[-1].event == "completed"
        answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["unspool_started_total",] == 2
    assert samples["unspool_settled_total", "complete"] == 2
    assert samples["unspool_settled_total", "error"] == 0
    assert samples["unspool_records_total",] == 4
    assert samples["unspool_runs",] == 0
    assert samples["unspool_passed_over_total",] == 0
