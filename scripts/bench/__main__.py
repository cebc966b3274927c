"""How fast the bus is, as ratios against nats-py and confluent-kafka measured in the same run.

Real servers; every measurement in a fresh process; both sides interleaved in an order shuffled per
round; same counts, sizes and durability; everything counted at the end. First the peer is tried with each
of its settings, and the fastest is what the row is measured against. A figure that misses its target is
printed as MISS, with a profile of where our time goes, and is no error (other programs may have run); a
measurement that did not work is. Without a broker on this machine Kafka's rows are left out.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from attrs import evolve

from eventbus.testing.servers.process import ServerUnavailable
from scripts.bench.figures import Result, Spread, machine, milliseconds, table, thousands, versions
from scripts.bench.kafka_stage import kafka_staged
from scripts.bench.row import Row
from scripts.bench.rows import IMPORT, IMPORT_ROUNDS, IMPORT_TARGET, NAMES, ROWS
from scripts.bench.stage import MeasurementFailed, import_once, staged

_TRIALS = 2
_STAGES: dict[str, Callable[[], AbstractContextManager[Any]]] = {"nats": staged, "kafka": kafka_staged}


def main() -> int:
    """Measure, print, and say whether everything worked."""
    options = _options()
    asked = {*(options.only or ())}
    rows = [row for row in ROWS if _wanted(row, asked, options.backend)]
    chance = random.Random(options.seed)
    results: list[Result] = []
    servers: list[str] = []
    for kind, stage in _STAGES.items():
        of_kind = [row for row in rows if row.stage == kind]
        try:
            results += _measure_all(stage, of_kind, options, chance, servers) if of_kind else []
        except ServerUnavailable as error:
            if kind == "nats" or asked or options.backend:
                raise
            print(f"{len(of_kind)} rows of {kind} are left out: {error}", flush=True)
    if IMPORT in asked or not (asked or options.backend):
        results.append(_import())
    footer = (machine(), versions(servers), f"{options.rounds} rounds each: median [min-max]")
    print("", table(results), *footer, sep="\n")
    if options.json:
        figures = {"machine": footer, "rows": [result.as_json() for result in results]}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 1 if any(result.failed for result in results) else 0


def _wanted(row: Row, asked: set[str], backend: str | None) -> bool:
    return row.name in asked if asked else backend in (None, row.stage)


def _measure_all(
    stage: Callable[[], AbstractContextManager[Any]],
    rows: Sequence[Row],
    options: argparse.Namespace,
    chance: random.Random,
    servers: list[str],
) -> list[Result]:
    """The rows of one kind of server; notes its versions."""
    results = []
    with stage() as running:
        servers += running.versions
        for row in rows:
            result = _guarded(running, row, options.rounds, options.scale, chance)
            if result.verdict == "MISS":
                result = evolve(result, profile=_profile(running, row, options.scale, options.profile_dir))
            results.append(result)
            print(f"  {' | '.join(filter(None, result.cells()))}", flush=True)
    return results


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="pairs of measurements per row (5)")
    parser.add_argument("--only", action="append", choices=NAMES, metavar="ROW", help=f"one of {', '.join(NAMES)}")
    parser.add_argument("--backend", choices=_STAGES, help="the rows of one kind of server")
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the message counts (1.0), to try it out")
    parser.add_argument("--seed", type=int, default=None, help="for the order")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    parser.add_argument("--profile-dir", type=Path, metavar="DIR", help="keep the profiles of missed rows there, too")
    options = parser.parse_args()
    if options.rounds < 1 or options.scale <= 0:
        parser.error("--rounds and --scale must be positive")
    return options


def _guarded(stage: Any, row: Row, rounds: int, scale: float, chance: random.Random) -> Result:
    count = _count(row, scale)
    print(f"{row.title}: {count:,} x {row.size} B", flush=True)
    try:
        return _measure(stage, row, rounds, count, chance)
    except (MeasurementFailed, RuntimeError, OSError) as error:
        return _result(row, (), failed=str(error))


def _count(row: Row, scale: float) -> int:
    return max(100, int(row.count * scale))


def _measure(stage: Any, row: Row, rounds: int, count: int, chance: random.Random) -> Result:
    settings = _best_settings(stage, row, count)
    found: dict[str, list[float]] = {"ours": [], "peer": []}
    used: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(rounds):
        sides = ["ours", "peer"] if row.peer else ["ours"]
        chance.shuffle(sides)
        for side in sides:
            stage.cpu = None
            found[side].append(_once(stage, row, side, count, settings if side == "peer" else {}))
            used[side] += [] if stage.cpu is None else [stage.cpu]
    peer = Spread(tuple(found["peer"])) if row.peer else None
    processors = tuple(Spread(tuple(used[side])) for side in ("ours", "peer") if used[side])
    return _result(row, found["ours"], peer=peer, peer_settings=_show(settings), processors=processors)


def _result(row: Row, ours: Sequence[float], **more: Any) -> Result:
    return Result(
        name=row.name,
        title=row.title,
        ours=Spread(tuple(ours)),
        peer_name=row.peer_name,
        unit=row.unit,
        target=row.target,
        absolute=row.absolute,
        most=row.most,
        **more,
    )


def _best_settings(stage: Any, row: Row, count: int) -> Mapping[str, Any]:
    """The settings with which the peer is fastest here and now."""
    if row.peer is None or len(row.peer_settings) == 1:
        return row.peer_settings[0]
    rates = []
    for settings in row.peer_settings:
        trials = [_once(stage, row, "peer", count, settings) for _ in range(_TRIALS)]
        rates.append(statistics.mean(trials))
        print(f"  {row.peer_name} with {_show(settings) or 'its defaults'}: {thousands(rates[-1])}", flush=True)
    return row.peer_settings[rates.index(max(rates))]


def _once(stage: Any, row: Row, side: str, count: int, settings: Mapping[str, Any]) -> float:
    verb = row.ours if side == "ours" else row.peer
    assert verb is not None
    own = row.our_settings if side == "ours" else {}
    where = "ours" if row.against else side
    return row.measure(stage, where, verb, count, row.size, {**row.settings, **own, **settings})


def _profile(stage: Any, row: Row, scale: float, directory: Path | None) -> str:
    """Our side once more, sampled: where its time goes."""
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary, row.name)
        try:
            _once(stage, row, "ours", _count(row, scale), {"profile": str(path)})
            text = path.read_text()
        except (MeasurementFailed, RuntimeError, OSError) as error:
            return f"no profile: {error}"
    if directory:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{row.name}.txt").write_text(f"{row.title}: {text}\n")
    return text


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
