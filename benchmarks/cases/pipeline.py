"""A shared channel: one process sends messages, and another receives each of them once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from benchmarks.benchmark import Benchmark
from benchmarks.processes import SERVER_CORES, Worker
from benchmarks.results import Metric
from benchmarks.session import MissingDeliveries, worker

if TYPE_CHECKING:
    from benchmarks.benchmark import Measured
    from benchmarks.contenders import Contender
    from benchmarks.settings import Place

CASES = {
    "one": "one producer, awaiting each send",
    "many": "100 senders at the same time",
    "batch": "`send_many`, 100 at once",
}
WAITING = "receiving what waits already"
# The first messages warm up, and show how many the measurement needs.
PROBE = 300


def run(contender: Contender, place: Place) -> Measured:
    arguments = ["--app", contender.app]
    with (
        worker("pipeline", arguments, contender, place) as producer,
        worker("pipeline", arguments, contender, place, cores=SERVER_CORES) as consumer,
    ):
        can_batch = producer.call("abilities")["batch"]
        measured = {
            case: _through(producer, consumer, how, place)
            for how, case in CASES.items()
            if how != "batch" or can_batch
        }
        measured[WAITING] = _waiting(producer, consumer, place)
    return measured


def _produce(producer: Worker, how: str, place: Place, limit: int) -> dict[str, Any]:
    settings = place.settings
    return producer.call(
        "produce", how=how, seconds=settings.seconds, limit=limit, size=settings.size
    )


def _through(producer: Worker, consumer: Worker, how: str, place: Place) -> dict[str, float]:
    """Measure both sides at once, from the first send until the last message is received."""
    probe = _sent_and_received(producer, consumer, how, place, PROBE)
    return _sent_and_received(producer, consumer, how, place, _worth(probe, place))


def _sent_and_received(
    producer: Worker, consumer: Worker, how: str, place: Place, limit: int
) -> dict[str, float]:
    cpu = producer.cpu(), consumer.cpu()
    consumer.ask("consume")
    sent = _produce(producer, how, place, limit)
    received = consumer.answer()
    count = _counted(sent, received)
    return {
        "per_second": count / (received["ended"] - sent["began"]),
        "sender": (producer.cpu() - cpu[0]) / count * 1e6,
        "receiver": (consumer.cpu() - cpu[1]) / count * 1e6,
    }


def _waiting(producer: Worker, consumer: Worker, place: Place) -> dict[str, float]:
    """Measure the consumer alone."""
    probe = _received(producer, consumer, place, PROBE)
    return _received(producer, consumer, place, _worth(probe, place))


def _received(producer: Worker, consumer: Worker, place: Place, limit: int) -> dict[str, float]:
    sent = _produce(producer, "many", place, limit)
    cpu = consumer.cpu()
    received = consumer.call("consume")
    count = _counted(sent, received)
    return {
        "per_second": count / (received["ended"] - received["began"]),
        "receiver": (consumer.cpu() - cpu) / count * 1e6,
    }


def _worth(probe: dict[str, float], place: Place) -> int:
    """Return how many messages fill the measured time, estimated from a few."""
    return min(
        place.settings.messages, max(PROBE, int(probe["per_second"] * place.settings.seconds))
    )


def _counted(sent: dict[str, Any], received: dict[str, Any]) -> int:
    if sent["sent"] != received["received"]:
        raise MissingDeliveries(f"{received['received']:,} received of {sent['sent']:,} sent")
    return int(sent["sent"])


BENCHMARK = Benchmark(
    "pipeline",
    "Pipeline: messages per second through one shared channel",
    (
        Metric("per_second", "messages/s"),
        Metric("sender", "sender CPU, µs", 0, "lower"),
        Metric("receiver", "receiver CPU, µs", 0, "lower"),
    ),
    run,
    # Shared channels of pub/sub keep no messages. Bare Redis is good at this benchmark.
    layers=("queue",),
)
