"""Medians with their ranges, the verdicts, and the table."""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Sequence
from importlib import metadata
from os import cpu_count, getloadavg
from pathlib import Path
from typing import Any

from attrs import asdict, frozen

_FEWEST_CELLS = 7


@frozen
class Spread:
    """Several measurements of one thing."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The one in the middle."""
        return statistics.median(self.values)

    def show(self, form: Callable[[float], str]) -> str:
        """The median and the range."""
        return f"{form(self.median)} [{form(min(self.values))}-{form(max(self.values))}]"


@frozen(kw_only=True)
class Result:
    """What a row came to. absolute: the target is about our own figure. most: it must stay below.

    profile: where our time went, for a row that missed its target. processors: seconds of all of them for a message,
    ours and the peer's, where they were measured: of that the noise of the machine takes less.
    """

    name: str
    title: str
    ours: Spread
    peer: Spread | None = None
    peer_name: str = ""
    peer_settings: str = ""
    unit: str = "msg/s"
    target: float | None = None
    absolute: bool = False
    most: bool = False
    failed: str = ""
    profile: str = ""
    processors: tuple[Spread, ...] = ()

    @property
    def ratio(self) -> Spread | None:
        """Ours against the peer's, pair by pair."""
        if self.peer is None:
            return None
        return Spread(tuple(ours / peer for ours, peer in zip(self.ours.values, self.peer.values, strict=True)))

    @property
    def verdict(self) -> str:
        """PASS or MISS against the target, FAIL if it did not work, "-" without a target."""
        if self.failed:
            return "FAIL"
        if self.target is None:
            return "-"
        reached = (self.ours if self.absolute else self.ratio or self.ours).median
        good = reached <= self.target if self.most else reached >= self.target
        return "PASS" if good else "MISS"

    def cells(self) -> tuple[str, ...]:
        """Its line of the table."""
        form = milliseconds if self.unit == "s" else thousands
        wanted = "-"
        if self.target is not None:
            bound = form(self.target) if self.absolute else f"{self.target:.1f}x"
            wanted = f"{'<' if self.most else '>='} {bound}"
        if self.failed:
            return self.title, "", "", "", "", wanted, self.verdict
        peer = self.peer.show(form) if self.peer else "-"
        ratio = self.ratio.show(times) if self.ratio else "-"
        used = " / ".join(f"{spread.median * 1e6:.2f}" for spread in self.processors) or "-"
        return self.title, self.ours.show(form), peer, ratio, used, wanted, self.verdict

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            **asdict(self),
            "median": self.ours.median if self.ours.values else None,
            "ratios": self.ratio.values if self.ratio else None,
            "ratio": self.ratio.median if self.ratio and not self.failed else None,
            "verdict": self.verdict,
        }


def thousands(rate: float) -> str:
    """1234567.0 -> 1235k, 1234.0 -> 1.23k."""
    return f"{rate / 1000:.0f}k" if rate >= 100_000 else f"{rate / 1000:.3g}k"


def milliseconds(seconds: float) -> str:
    """0.0723 -> 72 ms, 0.00173 -> 1.7 ms."""
    return f"{seconds * 1000:.2g} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"


def times(ratio: float) -> str:
    """2.345 -> 2.35x."""
    return f"{ratio:.2f}x"


def table(results: Sequence[Result]) -> str:
    """All rows, and below them what the peer was tuned to, and where the time of a miss went."""
    peers = dict.fromkeys(result.peer_name for result in results if result.peer_name)
    head = ("", "eventbus", " / ".join(peers), "ratio, pair by pair", "CPU us", "target", "")
    lines = [head, *(result.cells() for result in results)]
    widths = [max(len(line[column]) for line in lines) for column in range(_FEWEST_CELLS)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    text.insert(1, "-" * max(map(len, text)))
    text += [
        f"{result.title}: {result.peer_name} with {result.peer_settings}" for result in results if result.peer_settings
    ]
    text += [f"{result.title}: {result.failed}" for result in results if result.failed]
    text += [f"\n{result.title}, our side: {result.profile}" for result in results if result.profile]
    return "\n".join(text)


def machine() -> str:
    """What it ran on."""
    load = ", ".join(f"{value:.1f}" for value in getloadavg())
    system = f"{platform.system()} {platform.release().partition('-')[0]}"
    return f"machine: {cpu_count()} cores, {_processor()}, {system}, load {load}"


def versions(servers: Sequence[str]) -> str:
    """Of everything that was measured; `servers`: their names with their versions."""
    names = [name for name in ("jxt-eventbus", "nats-py", "pynats2", "uvloop", "confluent-kafka") if _version(name)]
    libraries = [f"{name} {_version(name)}" for name in names]
    found = ", ".join([f"{platform.python_implementation()} {platform.python_version()}", *libraries, *servers])
    return f"versions: {found}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()
