"""Image, compose file and manifests pass their validators, and say of themselves what the code expects."""

import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from controller.shell.config import load
from controller.shell.publisher import RedisPublisher, connect
from tests.services import prometheus_server
from tests.services.needed import need
from tests.services.redis_server import MakeRedis

DEPLOY = Path(__file__).parents[2] / "deploy"
MANIFESTS = [
    (path.name, document)
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


def ran(*command: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_the_image_s_recipe_is_clean() -> None:
    ran(str(Path(sys.executable).with_name("hadolint")), str(DEPLOY / "Dockerfile"))


def needed(texts: list[str], extras: set[str]) -> Iterator[Requirement]:
    """Requirements, and what these require."""
    for requirement in map(Requirement, texts):
        if requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield requirement
            yield from needed(requires(requirement.name) or [], requirement.extras)


def test_the_image_s_constraints_name_all_that_it_installs_and_nothing_that_the_package_refuses() -> None:
    """So an image that is built anew is the same; what this environment has may be newer."""
    project = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]
    lines = (DEPLOY / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if not line.startswith("#"))
    wanted = list(needed(project["dependencies"] + project["optional-dependencies"]["confluent"], set()))
    assert {canonicalize_name(requirement.name) for requirement in wanted} <= pins.keys()
    for requirement in wanted:
        assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)]), requirement


@pytest.mark.parametrize("database", [0, 1])
def test_the_permissions_in_the_readme_are_enough(redis_server: MakeRedis, database: int) -> None:
    """The line is read as `on a for b and the channel c, and d for a database other than 0`."""
    line = next(line for line in (DEPLOY / "README.md").read_text().splitlines() if "+evalsha" in line)
    commands, keys, channels, other_database = re.findall(r"`([^`]+)`", line)
    more = other_database.split() if database else []
    server = redis_server()
    with connect(server.url, None) as admin, connect(f"redis://tab@127.0.0.1:{server.port}/{database}", "words") as own:
        admin.execute_command("ACL", "SETUSER", "tab", "on", ">words", *commands.split(), *more, keys, channels)
        publisher = RedisPublisher(own, "feed")
        assert publisher.publish(b'{"version": 1}', 1).accepted
        assert publisher.stored() == (1, 0)


def test_compose_is_valid_and_the_daemon_is_locked_down() -> None:
    need(None if shutil.which("docker-compose") else "no docker-compose on the PATH")
    config = yaml.safe_load(ran("docker-compose", "-f", str(DEPLOY / "compose.yaml"), "config").stdout)
    assert config["services"].keys() == {"kafka", "redis", "study", "daemon", "feed", "prometheus", "grafana"}
    for name in ("study", "daemon", "feed"):
        service = config["services"][name]
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["image"] == "trimtab"
    assert [name for name, service in config["services"].items() if "build" in service] == ["study"]
    published = [port for service in config["services"].values() for port in service.get("ports", ())]
    assert all("127.0.0.1" in str(port) for port in published), "nothing is reached from outside the machine"


def test_prometheus_reads_its_configuration() -> None:
    need(prometheus_server.missing())
    ran("promtool", "check", "config", str(DEPLOY / "prometheus" / "prometheus.yml"))


@pytest.mark.parametrize(("name", "document"), MANIFESTS)
def test_each_manifest_fits_kubernetes_schemas(name: str, document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, "1.31", strict=True)


def by_kind(kind: str) -> dict[str, Any]:
    (found,) = (document for _, document in MANIFESTS if document["kind"] == kind)
    return dict(found)


def test_the_manifests_fit_each_other_and_the_image() -> None:
    daemon = by_kind("StatefulSet")
    pod = daemon["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert daemon["spec"]["replicas"] == 1
    assert daemon["spec"]["podManagementPolicy"] == "Parallel", "else no update follows a pod that is not ready"
    assert "USER 10001:10001" in (DEPLOY / "Dockerfile").read_text()
    assert pod["spec"]["securityContext"]["runAsUser"] == 10001
    assert container["securityContext"]["readOnlyRootFilesystem"]
    for selected in (daemon["spec"], by_kind("NetworkPolicy")["spec"]):
        chosen = selected.get("selector", selected.get("podSelector"))["matchLabels"]
        assert chosen.items() <= pod["metadata"]["labels"].items()
    assert by_kind("Service")["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
    claims = {claim["metadata"]["name"] for claim in daemon["spec"]["volumeClaimTemplates"]}
    assert mounted == volumes | claims


def test_the_study_of_the_manifests_is_sound(tmp_path: Path) -> None:
    file = tmp_path / "study.toml"
    file.write_text(by_kind("ConfigMap")["data"]["study.toml"])
    study = load(file)
    assert (study.warnings, study.demands) == ((), ())
    container = by_kind("StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert str(study.journal.parent) == mounts["journal"]
    assert study.kafka.ca_file == f"{mounts['tls']}/ca.pem"
    assert container["args"][1] == f"{mounts['study']}/study.toml"
