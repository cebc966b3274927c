"""Which broker is used, why, how it is fetched, and what is said where there is none."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from eventbus.testing import KafkaServer, ServerUnavailable
from eventbus.testing.servers import kafka_jars, kafka_source
from eventbus.testing.servers.kafka_external import ExternalKafka, open_kafka
from eventbus.testing.servers.kafka_jars import get_jars
from eventbus.testing.servers.kafka_java import Java
from eventbus.testing.servers.kafka_source import find_kafka
from eventbus.testing.servers.kafka_warm import warmed

JAR = "kafka_2.13-9.9.9.jar"


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without any broker, Java, Maven or cache."""
    for name in ("EVENTBUS_TEST_KAFKA", "EVENTBUS_TEST_KAFKA_IMAGE", "EVENTBUS_KAFKA_JARS", "JAVA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kafka_source, "_docker_reason", lambda: "no daemon")
    return monkeypatch


def program(directory: Path, name: str, text: str) -> Path:
    """Make a program of a shell script; it finds the usual commands."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{text}\n")
    path.chmod(0o755)
    return path


def java(directory: Path, version: str) -> Path:
    """Make a `java` that knows its version only."""
    return program(directory, "java", f"echo 'openjdk version \"{version}\" 2025-04-15' >&2")


def maven(directory: Path, text: str = "") -> Path:
    """Make an `mvn` that brings one jar, and notes that it was called."""
    bring = f'mkdir "$out" && touch "$out/{JAR}"'
    find = "for each; do case $each in -DoutputDirectory=*) out=${each#*=};; esac; done"
    return program(directory, "mvn", f"echo called >> {directory}/calls\n{find}\n{text or bring}")


@pytest.mark.usefixtures("nowhere")
def test_where_there_is_none_each_reason_is_given() -> None:
    with pytest.raises(ServerUnavailable) as caught:
        find_kafka()
    text = str(caught.value)
    for part in (
        "EVENTBUS_TEST_KAFKA is not set",
        "docker: no daemon",
        "no java (JAVA_HOME is not set, and none on PATH); 17 or later is needed",
    ):
        assert part in text
    with pytest.raises(ServerUnavailable):
        KafkaServer().start()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo 'java version \"1.8.0_402\"' >&2", r"java is Java 1\.8\.0_402; 17 or later is needed"),
        ("echo 'openjdk version \"11.0.22\" 2024-01-16' >&2", r"java is Java 11\.0\.22; 17 or later"),
        ("echo no JVM here >&2; exit 1", r"java does not run \(no JVM here\)"),
        ("echo something else", r"java does not run \(something else\)"),
    ],
)
@pytest.mark.usefixtures("nowhere")
def test_a_java_that_does_not_do_is_named(tmp_path: Path, text: str, reason: str) -> None:
    program(tmp_path / "bin", "java", text)
    with pytest.raises(ServerUnavailable, match=reason):
        find_kafka()


def test_java_home_comes_before_the_path(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java(tmp_path / "bin", "17.0.1")
    maven(tmp_path / "bin")
    home = java(tmp_path / "home" / "bin", "21")
    found = find_kafka()
    assert (found.kind, found.java, found.java_version) == ("java", str(tmp_path / "bin" / "java"), "17.0.1")
    nowhere.setenv("JAVA_HOME", str(tmp_path / "home"))
    assert (find_kafka().java, find_kafka().java_version) == (str(home), "21")
    nowhere.setenv("JAVA_HOME", str(tmp_path / "gone"))
    with pytest.raises(ServerUnavailable, match="gone/bin/java does not run"):
        find_kafka()


@pytest.mark.usefixtures("nowhere")
def test_without_jars_and_without_maven_there_is_none(tmp_path: Path) -> None:
    java(tmp_path / "bin", "17")
    with pytest.raises(ServerUnavailable, match=r"no jars in .*/cache/.*and no mvn to fetch them with"):
        find_kafka()
    with pytest.raises(ServerUnavailable, match="no mvn to fetch"):
        get_jars()
    assert not (tmp_path / "cache").exists()


def test_jars_of_ones_own_are_used_as_they_are(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java(tmp_path / "bin", "17")
    maven(tmp_path / "bin")
    jars = tmp_path / "jars"
    nowhere.setenv("EVENTBUS_KAFKA_JARS", str(jars))
    for call in (find_kafka, get_jars):
        with pytest.raises(ServerUnavailable, match=r"EVENTBUS_KAFKA_JARS names a folder without kafka_2\.13"):
            call()
    jars.mkdir()
    (jars / JAR).touch()
    found = find_kafka()
    assert (found.kind, found.where, found.version) == ("java", str(jars), "9.9.9")
    assert get_jars() == jars
    assert str(found).startswith(f"Apache Kafka 9.9.9 at {jars} with Java 17 (EVENTBUS_TEST_KAFKA is not set; ")
    assert not (tmp_path / "bin" / "calls").exists(), "Maven was called"


def test_docker_comes_first_but_makes_no_clusters(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    java(tmp_path / "bin", "17")
    maven(tmp_path / "bin")
    nowhere.setattr(kafka_source, "_docker_reason", lambda: "")
    found = find_kafka()
    assert (found.kind, found.where) == ("docker", "apache/kafka:4.2.0")
    assert str(found) == "docker image at apache/kafka:4.2.0 (EVENTBUS_TEST_KAFKA is not set)"
    nowhere.setenv("EVENTBUS_TEST_KAFKA_IMAGE", "mine/kafka:1")
    assert find_kafka().where == "mine/kafka:1"
    assert find_kafka(docker=False).kind == "java"


@pytest.mark.usefixtures("nowhere")
def test_jars_are_fetched_once_and_whole(tmp_path: Path) -> None:
    maven(tmp_path / "bin")
    jars = get_jars()
    assert jars == tmp_path / "cache" / "jxt-eventbus" / "kafka-4.2.0" / "jars"
    assert [each.name for each in jars.iterdir()] == [JAR]
    assert get_jars() == jars
    assert (tmp_path / "bin" / "calls").read_text() == "called\n"
    assert sorted(each.name for each in jars.parent.iterdir()) == ["jars", "lock"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo BUILD FAILURE; echo no route to host; exit 1", r"(?s)could not fetch Kafka.*no route to host"),
        ("exit 0", "brought no kafka_2.13"),
        ("echo downloading; exec sleep 60", r"did not end within \d s: downloading"),
    ],
)
@pytest.mark.usefixtures("nowhere")
def test_a_fetch_that_fails_says_how_and_leaves_nothing(tmp_path: Path, text: str, reason: str) -> None:
    maven(tmp_path / "bin", text)
    cache = tmp_path / "cache" / "jxt-eventbus" / "kafka-4.2.0"
    (cache / "fetching-killed").mkdir(parents=True)
    with pytest.raises(ServerUnavailable, match=reason):
        get_jars(timeout=1.0)
    assert [each.name for each in cache.iterdir()] == ["lock"]


@pytest.mark.usefixtures("nowhere")
def test_processes_that_fetch_at_the_same_time_fetch_once(tmp_path: Path) -> None:
    maven(tmp_path / "bin", f'mkdir "$out"; sleep 0.2; touch "$out/{JAR}"')
    code = "from eventbus.testing.servers.kafka_jars import get_jars; print(*get_jars().iterdir())"
    running = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = {process.communicate(timeout=30.0)[0].strip() for process in running}
    assert said == {str(kafka_jars.jar_directory() / JAR)}
    assert (tmp_path / "bin" / "calls").read_text() == "called\n"


@pytest.mark.usefixtures("nowhere")
def test_the_lock_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    maven(tmp_path / "bin")
    cache = kafka_jars.cache_directory()
    cache.mkdir(parents=True)
    with (cache / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        started = time.monotonic()
        with pytest.raises(ServerUnavailable, match=r"another process holds .*lock"):
            get_jars(timeout=0.2)
        assert time.monotonic() - started < 5.0
    assert get_jars(timeout=5.0).is_dir()


@pytest.mark.usefixtures("nowhere")
def test_a_cache_that_cannot_be_made_is_a_reason(tmp_path: Path) -> None:
    maven(tmp_path / "bin")
    (tmp_path / "cache").touch()
    with pytest.raises(ServerUnavailable, match=r"no cache for Kafka: .*Not a directory"):
        get_jars()


@pytest.mark.usefixtures("nowhere")
def test_what_makes_a_start_quicker_may_fail(tmp_path: Path) -> None:
    jars = tmp_path / "jars"
    jars.mkdir()
    (jars / JAR).touch()
    version_only = program(tmp_path / "bin", "java", 'case "$*" in *-Xinternalversion) echo 17;; *) exit 1;; esac')
    for command in ("/no/such/java", "/bin/false", str(version_only)):
        plain = Java(command, jars)
        assert warmed(plain) is plain
    kept = kafka_jars.cache_directory()
    assert [each.name for each in kept.iterdir()] == ["lock"]


@pytest.mark.kafka
def test_an_archive_that_does_not_suit_is_done_without(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import dataclasses, pathlib, sys
        from eventbus.testing import KafkaServer
        from eventbus.testing.servers import kafka
        right = kafka.warmed
        damaged = pathlib.Path(sys.argv[1])
        damaged.write_bytes(b"not an archive" * 1000)
        kafka.warmed = lambda java: dataclasses.replace(right(java), archive=damaged)
        with KafkaServer(source=kafka.find_kafka(external=False, docker=False)) as server:
            print(server.answers(), server.log().count("archive"))
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path / "damaged.jsa")]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert answer.stdout == "True 0\n", answer.stderr


@pytest.mark.kafka
def test_an_external_broker_is_used_and_cannot_be_harmed(
    kafka_server_shared: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_KAFKA", kafka_server_shared.bootstrap)
    with open_kafka() as server:
        assert isinstance(server, ExternalKafka)
        assert server.url == kafka_server_shared.url
        assert server.address == kafka_server_shared.address
        assert server.view().brokers == kafka_server_shared.view().brokers
        assert server.ready_time > 0
        for outage in (server.kill, server.freeze, server.restart, server.stop, server.lose_state):
            with pytest.raises(ServerUnavailable, match="not ours"):
                outage()
    assert kafka_server_shared.answers()
    with pytest.raises(ServerUnavailable, match="cannot take"):
        open_kafka(fast=False)
    assert find_kafka(external=False).kind != "external"
    with pytest.raises(ServerUnavailable, match="cannot be started"):
        KafkaServer(source=find_kafka()).start()


@pytest.mark.parametrize(
    ("address", "reason"),
    [("127.0.0.1:9", "does not answer"), ("host:port", "is not host:port"), (":9092", "is not host:port")],
)
def test_an_external_broker_that_is_not_there_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, address: str, reason: str
) -> None:
    monkeypatch.setenv("EVENTBUS_TEST_KAFKA", address)
    with pytest.raises(ServerUnavailable, match=reason):
        open_kafka().start()
