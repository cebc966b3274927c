"""The command lines of Apache Kafka's own programs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_BROKER = "kafka.Kafka"
_FORMAT = "kafka.tools.StorageTool"
_HEAP = "384m"
_LOG = "-Dorg.slf4j.simpleLogger."


@dataclass(frozen=True)
class Java:
    """A ``java`` and the jars of Kafka; perhaps what lets it start quicker."""

    command: str
    jars: Path
    #: An archive of loaded classes, to be used; the JVM does without one that does not suit it.
    archive: Path | None = None
    #: Where to write such an archive at the end.
    archive_to: Path | None = None
    #: The first records of every new store, as Kafka's own formatting makes them.
    first_records: bytes = b""

    @property
    def class_path(self) -> list[Path]:
        """All jars, in an order of which an archive may rely on."""
        return sorted(self.jars.glob("*.jar"))

    def broker(self, properties: Path, directory: Path) -> list[str]:
        """Return the command that runs a broker; its temporary files go to ``directory``."""
        return [*self._java(directory), _BROKER, str(properties)]

    def format(self, properties: Path, directory: Path, cluster_id: str, credential: str) -> list[str]:
        """Return the command that makes an empty store."""
        users = ["--add-scram", credential] if credential else []
        arguments = ["format", "-t", cluster_id, "-c", str(properties), *users]
        return [*self._java(directory), _FORMAT, *arguments]

    def _java(self, directory: Path) -> list[str]:
        return [
            self.command,
            f"-Xmx{_HEAP}",
            "-Xms64m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",  # it keeps a file in /tmp, which a killed broker leaves there
            *self._archives(),
            f"-Djava.io.tmpdir={directory}",
            "-Djava.awt.headless=true",
            f"{_LOG}defaultLogLevel=warn",
            f"{_LOG}showDateTime=true",
            f"{_LOG}dateTimeFormat=HH:mm:ss.SSS",
            "-cp",
            ":".join(map(str, self.class_path)),
        ]

    def _archives(self) -> list[str]:
        if self.archive_to is not None:
            return [f"-XX:ArchiveClassesAtExit={self.archive_to}", *_SILENT]
        if self.archive is not None:
            return [f"-XX:SharedArchiveFile={self.archive}", "-Xshare:auto", *_SILENT]
        return []


_SILENT = ("-Xlog:cds=off", "-Xlog:cds+dynamic=off", "-Xlog:class+path=off")
