"""Installs Redis, Prometheus, Chromium, Java, Maven (Debian, root) and Apache Kafka's jars (Maven Central, into
.services/).

Run by `make test` as `python -m tests.services.install`; does nothing where all is there. A service whose
address is in TRIMTAB_TEST_KAFKA or TRIMTAB_TEST_REDIS is not installed. Where something cannot be had this
says so and ends with status 0: its tests are skipped. With TRIMTAB_REQUIRE_SERVICES=1 it ends with status 1.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

_HOME = Path(__file__).resolve().parents[2] / ".services" / "kafka"
JARS = _HOME / "libs"
FORMATTED = _HOME / "formatted"  # an empty broker's data folder; each broker starts from a copy of it
_POM = Path(__file__).with_name("pom.xml")
_CLUSTER_ID = "dHJpbXRhYi10ZXN0cy0wMQ"  # 16 bytes in unpadded base64

# Quick to start and small, rather than fast for ever: the C1 compiler alone and the serial collector.
JVM_OPTIONS = (
    *("-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto", "-Djava.awt.headless=true"),
    *("-Dorg.apache.logging.log4j.level=WARN", "-cp", f"{JARS}/*"),
)

_FORMAT_SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:19093
listeners=PLAINTEXT://127.0.0.1:19092,CONTROLLER://127.0.0.1:19093
controller.listener.names=CONTROLLER
log.dirs={data}
"""


class NotInstalled(Exception):
    """A service cannot be had on this machine; the message says why and what would help."""


def java() -> str | None:
    """Path of the Java command: JAVA_HOME first, then the PATH."""
    home = os.environ.get("JAVA_HOME")
    in_home = shutil.which("java", path=f"{home}/bin") if home else None
    return in_home or shutil.which("java")


def install_redis() -> None:
    """Raises `NotInstalled`."""
    if not shutil.which("redis-server"):
        _apt_install(["redis-server"])


def install_prometheus() -> None:
    """With promtool. Raises `NotInstalled`."""
    if not shutil.which("prometheus") or not shutil.which("promtool"):
        _apt_install(["prometheus"])


def install_compose() -> None:
    """The validator of compose files. Raises `NotInstalled`."""
    if not shutil.which("docker-compose"):
        _apt_install(["docker-compose"])


def install_chromium() -> None:
    """Raises `NotInstalled`."""
    if not shutil.which("chromium"):
        _apt_install(["chromium", "fonts-dejavu-core"])


def install_kafka() -> None:
    """Raises `NotInstalled`."""
    if FORMATTED.is_dir() and java():
        return
    packages = [] if java() else ["default-jre-headless"]
    if not JARS.is_dir() and not shutil.which("mvn"):
        packages.append("maven")
    if packages:
        _apt_install(packages)
    if not JARS.is_dir():
        _fetch_jars()
    if not FORMATTED.is_dir():
        _format()


def _apt_install(packages: Sequence[str]) -> None:
    if not shutil.which("apt-get") or os.geteuid() != 0:
        wanted = " ".join(packages)
        raise NotInstalled(f"{wanted}: not installed, and only root on Debian can (apt-get install {wanted})")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    apt = ["apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3"]
    policy = _keep_services_stopped()
    try:
        _call([*apt, "update"], environment)
        _call([*apt, "install", "--no-install-recommends", *packages], environment)
    finally:
        if policy is not None:
            policy.unlink()


def _keep_services_stopped() -> Path | None:
    """Debian starts a daemon when it installs one; the tests start their own. Returns the file to remove."""
    policy = Path("/usr/sbin/policy-rc.d")
    if policy.exists():
        return None
    policy.write_text("#!/bin/sh\nexit 101\n")
    policy.chmod(0o755)
    return policy


def _fetch_jars() -> None:
    """Apache Kafka and what it needs (46 jars, 43 MB), complete or not at all."""
    _HOME.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=_HOME) as scratch:
        jars = Path(scratch) / "libs"
        command = ["mvn", "-q", "-B", "-Dmaven.wagon.http.retryHandler.count=5", "-f", str(_POM)]
        _call([*command, "dependency:copy-dependencies", f"-DoutputDirectory={jars}"])
        _rename(jars, JARS)


def _format() -> None:
    """Format one data folder once: every broker starts from a copy, without this second Java machine."""
    with tempfile.TemporaryDirectory(dir=_HOME) as scratch:
        data, settings = Path(scratch) / "data", Path(scratch) / "server.properties"
        settings.write_text(_FORMAT_SETTINGS.format(data=data))
        tool = [java() or "java", *JVM_OPTIONS, "kafka.tools.StorageTool", "format"]
        _call([*tool, "-t", _CLUSTER_ID, "-c", str(settings)])
        _rename(data, FORMATTED)


def _rename(done: Path, place: Path) -> None:
    """Of two installations at once the first wins; both leave the same files."""
    try:
        done.rename(place)
    except OSError:
        if not place.is_dir():
            raise


def _call(command: Sequence[str], environment: dict[str, str] | None = None) -> None:
    result = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if result.returncode:
        output = (result.stdout + result.stderr)[-2000:]
        raise NotInstalled(f"`{' '.join(command)}` ended with status {result.returncode}:\n{output}")


def main() -> int:
    """Install what is wanted; returns the exit status."""
    wanted = {
        "Redis": ("TRIMTAB_TEST_REDIS", install_redis),
        "Apache Kafka": ("TRIMTAB_TEST_KAFKA", install_kafka),
        "Prometheus": ("", install_prometheus),
        "docker-compose": ("", install_compose),
        "Chromium": ("TRIMTAB_TEST_CHROMIUM", install_chromium),
    }
    failed = False
    for name, (variable, install) in wanted.items():
        if variable and os.environ.get(variable):
            print(f"{name}: taken from {variable}")
            continue
        try:
            install()
        except NotInstalled as problem:
            failed = True
            print(f"{name}: NOT AVAILABLE, its tests cannot run: {problem}", file=sys.stderr)
        else:
            print(f"{name}: installed")
    return int(failed and os.environ.get("TRIMTAB_REQUIRE_SERVICES") == "1")


if __name__ == "__main__":
    sys.exit(main())
