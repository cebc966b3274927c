"""Where a PostgreSQL server comes from on this machine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from eventbus.testing.servers.docker_host import docker_reason as _docker_reason
from eventbus.testing.servers.process import ServerUnavailable, answer_of
from eventbus.testing.servers.source import Source, named_in

#: Names a server that runs already: ``postgresql://user[:password]@host:port/database``.
ENVIRONMENT = "EVENTBUS_TEST_POSTGRES"
#: The docker image that is used where there is no PostgreSQL.
DOCKER_IMAGE = "postgres:17"
#: Where Debian's packages put what is not on PATH, one folder for each version.
DEBIAN = Path("/usr/lib/postgresql")


class PostgresSource(Source):
    """A URL ("external"), the folder of ``postgres`` and ``initdb`` ("binary"), or a docker image ("docker")."""

    FOUND: ClassVar[Mapping[str, str]] = {"external": "the server", "binary": "PostgreSQL", "docker": "docker image"}


def find_postgres(*, external: bool = True) -> PostgresSource:
    """Return the first source that works, and why not those before it.

    In this order: ``EVENTBUS_TEST_POSTGRES``, ``postgres`` and ``initdb`` on PATH, those of
    Debian's packages (the newest version), docker. ``external=False`` leaves the first out: what it
    names cannot be killed. ``postgres`` is run once for its version and the docker daemon is
    pinged; nothing is started.

    Raises:
        ServerUnavailable: none works; says why for each.
    """
    passed: list[str] = []
    url = named_in(ENVIRONMENT)
    if url and external:
        return PostgresSource("external", url)
    if external:
        passed.append(f"{ENVIRONMENT} is not set")
    for name, folder in (("PATH", _on_path()), (str(DEBIAN), _of_debian())):
        text, reason = answer_of(str(folder / "postgres"), "--version") if folder else ("", "no postgres with initdb")
        if folder and not reason:
            return PostgresSource("binary", str(folder), text.split()[2], tuple(passed))
        passed.append(f"{name}: {reason}")
    reason = _docker_reason()
    if not reason:
        return PostgresSource("docker", DOCKER_IMAGE, "", tuple(passed))
    passed.append(f"docker: {reason}")
    raise ServerUnavailable(f"no PostgreSQL to test with: {'; '.join(passed)}")


def _on_path() -> Path | None:
    found = shutil.which("postgres")
    if found is None:
        return None
    folder = Path(found).resolve().parent  # a link to it stands alone
    return folder if (folder / "initdb").exists() else None


def _of_debian() -> Path | None:
    folders = [path.parent for path in DEBIAN.glob("*/bin/initdb") if path.with_name("postgres").exists()]
    return max(folders, key=_version_of, default=None)


def _version_of(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.parent.name.split(".") if part.isdecimal())
