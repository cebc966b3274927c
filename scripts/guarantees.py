"""The table of what each backend promises, made from its `Features`; README.rst holds what this prints.

`python -m scripts.guarantees` prints it, `--write` puts it into README.rst.
"""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Callable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

from attrs import field, frozen

from eventbus import KafkaConfig, MemoryConfig, NatsConfig
from eventbus.backends import backend_for
from eventbus.features import Features

README = Path(__file__).parent.parent / "README.rst"
BEGIN = ".. made by python -m scripts.guarantees --write\n\n"
END = "\n.. end of what is made\n"
MEMORY, CORE, JETSTREAM, KAFKA = "memory", "NATS core", "NATS JetStream", "Kafka"
_WIDTHS = (25, 20, 20, 24, 22)


@frozen
class Row:
    """One promise. tell: what a backend's features make of it. how: by which means a backend keeps it, in brackets."""

    promise: str
    tell: Callable[[Features], str]
    how: Mapping[str, str] = field(factory=dict)

    def cell(self, backend: str, features: Features) -> str:
        """What stands in the column of a backend."""
        told, how = self.tell(features), self.how.get(backend)
        return f"{told} ({how})" if how else told


def _order(features: Features) -> str:
    if features.ordered_by_key:
        return "kept, whatever dies"
    if features.ordered_groups:
        return "kept with ``ordered=True``, whatever dies; else per process, in order of arrival"
    return "per process, while connected"


ROWS = (
    Row(
        "``Receipt.confirmed``",
        lambda features: "stored" if features.confirms_publish else "``False``: the server has read it",
        {JETSTREAM: "file, R3 in a cluster of three or more", KAFKA: "all in-sync replicas, idempotent"},
    ),
    Row("survives the process", lambda features: "yes" if features.durable else "no"),
    Row("not acknowledged", lambda features: "delivered again" if features.replays else "lost"),
    Row(
        "groups",
        lambda features: "shared" if features.groups else "none",
        {MEMORY: "by partition", CORE: "queue group", JETSTREAM: "message by message", KAFKA: "by partition"},
    ),
    Row("order per key", _order, {MEMORY: "by partition", KAFKA: "by partition"}),
    Row(
        "one id is stored once",
        lambda features: "yes" if features.deduplicates else "no: handlers can compare ``message.id``",
        {MEMORY: "the last 20,000 of each topic", JETSTREAM: "within 10 minutes, of each topic"},
    ),
    Row(
        "too much in hand",
        lambda features: "fetching pauses" if features.replays else "newest dropped, counted, reported",
        {KAFKA: "membership goes on"},
    ),
    Row(
        "a handler runs for long",
        lambda features: "its lane waits; what is too much is given back" if features.takes_back else "its lane waits",
        {KAFKA: "at most its partition"},
    ),
    Row(
        "while disconnected",
        lambda features: "waits at the broker" if features.replays else "what others publish is missed",
    ),
    Row(
        "after an outage",
        lambda features: "clients heal, or are replaced" if features.heals_itself else "a new session",
    ),
    Row(
        "``message.attempt``",
        lambda features: "starts here, and deliveries before" if features.counts_attempts else "starts in this process",
    ),
    Row(
        "dead letters",
        lambda features: "confirmed" if features.confirms_publish else "unconfirmed: the server has read them",
    ),
    Row(
        "``partition``, ``offset``",
        lambda features: "where it is stored" if features.confirms_publish else "``None``",
        {MEMORY: "partition, place in the topic", JETSTREAM: "stream, sequence"},
    ),
    Row("keys", lambda features: "any bytes" if features.carries_bytes else "UTF-8 text"),
    Row(
        "header values",
        lambda features: "any bytes, null" if features.carries_bytes else "no control characters, no outer blanks",
    ),
    Row("``TOMBSTONE``", lambda features: "a null value" if features.tombstones else "refused"),
    Row("``read``, ``dlq replay``", lambda features: "yes" if features.readable else "no"),
    Row(
        "``publish(partition=)``",
        lambda features: "where, and as of when (``timestamp=``)" if features.places else "refused",
    ),
    Row(
        "topics, groups of others",
        lambda features: "any name they have" if features.foreign_names else "named by this library's rule",
    ),
)


def features_of_ours() -> dict[str, Features]:
    """The backends, as they are configured by default."""
    configs = {
        MEMORY: MemoryConfig(),
        CORE: NatsConfig(jetstream=False),
        JETSTREAM: NatsConfig(),
        KAFKA: KafkaConfig(),
    }
    return {name: backend_for(config).features for name, config in configs.items()}


def table(backends: Mapping[str, Features]) -> str:
    """A simple table of reStructuredText, one column for each backend."""
    rule = "  ".join("=" * width for width in _WIDTHS[: len(backends) + 1])
    lines = [rule, *_lines(["promise", *backends]), rule]
    for row in ROWS:
        lines += _lines([row.promise, *(row.cell(name, features) for name, features in backends.items())])
    return "\n".join([*lines, rule]) + "\n"


def _lines(cells: Sequence[str]) -> list[str]:
    wrapped = [textwrap.wrap(cell, width, break_on_hyphens=False) for cell, width in zip(cells, _WIDTHS, strict=False)]
    return [
        "  ".join(f"{text:<{width}}" for text, width in zip(texts, _WIDTHS, strict=False)).rstrip()
        for texts in zip_longest(*wrapped, fillvalue="")
    ]


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(prog="python -m scripts.guarantees", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put it into README.rst")
    found = table(features_of_ours())
    if not parser.parse_args().write:
        print(found, end="")
        return
    before, rest = README.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    README.write_text(f"{before}{BEGIN}{found}{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
