"""How fast the bus is, as ratios against nats-py measured in the same run.

One real server; every measurement in a fresh process; both sides interleaved in an order shuffled per
round; same counts, sizes and durability; everything counted at the end. First nats-py is tried with each
of its settings, and the fastest is what the row is measured against. A figure that misses its target is
printed as MISS and is no error (other programs may have run); a measurement that did not work is.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scripts.bench.figures import Result, Spread, machine, milliseconds, table, thousands, versions
from scripts.bench.rows import IMPORT, IMPORT_ROUNDS, IMPORT_TARGET, NAMES, ROWS, Row
from scripts.bench.stage import MeasurementFailed, Stage, import_once, staged

_TRIALS = 2


def main() -> int:
    """Measure, print, and say whether everything worked."""
    options = _options()
    rows = [row for row in ROWS if not options.only or row.name in options.only]
    chance = random.Random(options.seed)
    results: list[Result] = []
    with staged() as stage:
        for row in rows:
            results.append(_guarded(stage, row, options.rounds, options.scale, chance))
            print(f"  {' | '.join(filter(None, results[-1].cells()))}", flush=True)
        server = stage.server_version
    if not options.only or IMPORT in options.only:
        results.append(_import())
    footer = (machine(), versions(server), f"{options.rounds} rounds each: median [min-max]")
    print("", table(results), *footer, sep="\n")
    if options.json:
        figures = {"machine": footer, "rows": [result.as_json() for result in results]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if any(result.failed for result in results) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements per row (5)")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="ROW", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the message counts (1.0), to try it out")
    parser.add_argument("--seed", type=int, default=None, help="for the order")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    options = parser.parse_args()
    if options.rounds < 1 or options.scale <= 0:
        parser.error("--rounds and --scale must be positive")
    return options


def _guarded(stage: Stage, row: Row, rounds: int, scale: float, chance: random.Random) -> Result:
    count = max(100, int(row.count * scale))
    print(f"{row.title}: {count:,} x {row.size} B", flush=True)
    try:
        return _measure(stage, row, rounds, count, chance)
    except (MeasurementFailed, RuntimeError, OSError) as error:
        return Result(
            name=row.name,
            title=row.title,
            ours=Spread(()),
            target=row.target,
            absolute=row.peer is None,
            failed=str(error),
        )


def _measure(stage: Stage, row: Row, rounds: int, count: int, chance: random.Random) -> Result:
    settings = _best_settings(stage, row, count)
    found: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        sides = ["ours", "peer"] if row.peer else ["ours"]
        chance.shuffle(sides)
        for side in sides:
            found[side].append(_once(stage, row, side, count, settings if side == "peer" else {}))
    return Result(
        name=row.name,
        title=row.title,
        ours=Spread(tuple(found["ours"])),
        peer=Spread(tuple(found["peer"])) if row.peer else None,
        peer_settings=_show(settings),
        target=row.target,
        absolute=row.peer is None,
    )


def _best_settings(stage: Stage, row: Row, count: int) -> Mapping[str, Any]:
    """The settings with which the peer is fastest here and now."""
    if row.peer is None or len(row.peer_settings) == 1:
        return row.peer_settings[0]
    rates = []
    for settings in row.peer_settings:
        trials = [_once(stage, row, "peer", count, settings) for _ in range(_TRIALS)]
        rates.append(statistics.mean(trials))
        print(f"  nats-py with {_show(settings) or 'its defaults'}: {thousands(rates[-1])}", flush=True)
    return row.peer_settings[rates.index(max(rates))]


def _once(stage: Stage, row: Row, side: str, count: int, settings: Mapping[str, Any]) -> float:
    verb = row.ours if side == "ours" else row.peer
    assert verb is not None
    return row.measure(stage, side, verb, count, row.size, settings)


def _import() -> Result:
    import_once()  # compiles, if nobody has yet
    try:
        found = [import_once() for _ in range(IMPORT_ROUNDS)]
    except MeasurementFailed as error:
        found, failed = [], str(error)
    else:
        clients = sorted({client for _, clients in found for client in clients})
        failed = f"it imports {', '.join(clients)}" if clients else ""
    seconds = Spread(tuple(seconds for seconds, _ in found))
    if not failed:
        print(f"import eventbus, {IMPORT_ROUNDS} fresh processes: {seconds.show(milliseconds)}, no client library")
    title = "import eventbus"
    return Result(
        name=IMPORT, title=title, ours=seconds, unit="s", target=IMPORT_TARGET, absolute=True, most=True, failed=failed
    )


def _show(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


if __name__ == "__main__":
    sys.exit(main())
