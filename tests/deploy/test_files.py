import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.deploy.files import (
    COMPOSE,
    COMPOSE_CPU,
    DOCKERFILE,
    DOCKERIGNORE,
    KUBERNETES,
    SBATCH,
    grace,
    instruction,
    instructions,
    load_compose,
    load_kubernetes,
    seconds,
    shell_commands,
)
from tests.studies import REPOSITORY

MARGIN = 15
"""What a supervisor gives its workers beyond the grace, to give their points back."""
OURS = ("dashboard", "worker", "search", "rust-optuna")


@pytest.fixture(params=[(COMPOSE,), (COMPOSE, COMPOSE_CPU)], ids=["gpu", "cpu"])
def compose(request):
    return load_compose(*request.param)


def tool(name):
    """Return the path of a linter that the dev extra installs."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")
    return found


def run(name, *arguments):
    return subprocess.run([tool(name), *map(str, arguments)], capture_output=True, text=True, check=False)


# Compose


def test_compose_files_keep_to_the_compose_specification(compose, tmp_path):
    merged = tmp_path / "merged.json"
    merged.write_text(json.dumps(compose))
    done = run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE, merged)
    assert done.returncode == 0, done.stdout
    merged.write_text(json.dumps(compose | {"services": {"worker": {"imagee": "none"}}}))
    assert run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", merged).returncode == 1


def test_nothing_is_published_beyond_this_machine_and_the_database_not_at_all(compose):
    ports = {name: service.get("ports", []) for name, service in compose["services"].items()}
    assert {name for name, published in ports.items() if published} == {"dashboard"}
    assert all(port.startswith("127.0.0.1:") for port in ports["dashboard"])
    words = compose["services"]["dashboard"]["command"]
    assert words[words.index("--host") + 1] == "0.0.0.0"
    assert ports["dashboard"][0].endswith(":" + words[words.index("--port") + 1])


def test_the_password_stands_in_one_file_that_git_and_images_leave_out(compose):
    (name, secret), *others = compose["secrets"].items()
    assert not others
    path = secret["file"].replace("${RUST_OPTUNA_HOME:-.}", str(REPOSITORY))
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        pytest.skip("this is no git checkout, or git is not installed")
    ignored = subprocess.run(["git", "-C", REPOSITORY, "check-ignore", "--quiet", path], check=False)
    assert ignored.returncode == 0
    for service in compose["services"].values():
        assert service["secrets"] == [name]
        assert f"/run/secrets/{name}" in service["environment"].values()
    assert "PASSWORD:" not in COMPOSE.read_text()


def test_films_are_read_only_and_containers_can_do_little(compose):
    for name in OURS:
        service = compose["services"][name]
        writable = [volume["target"] for volume in service["volumes"] if not volume.get("read_only")]
        assert writable == ["/work/storage"], name
        assert not any(volume["bind"]["create_host_path"] for volume in service["volumes"])
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
        assert service["user"] == "${RUST_OPTUNA_USER:-1000:1000}"


def test_workers_may_end_their_points_before_they_are_killed(compose):
    for name in ("worker", "search"):
        assert seconds(compose["services"][name]["stop_grace_period"]) > 60 + MARGIN, name
    assert grace(compose["services"]["worker"]["command"]) == 60
    assert "--forever" in compose["services"]["worker"]["command"]


def test_services_wait_for_the_database_and_come_back(compose):
    assert compose["services"]["database"]["healthcheck"]["test"][1] == "pg_isready"
    for name in OURS:
        assert compose["services"][name]["depends_on"] == {"database": {"condition": "service_healthy"}}
    for name in ("database", "dashboard", "worker"):
        assert compose["services"][name]["restart"] == "unless-stopped"
    for name in ("search", "rust-optuna"):  # one command each: only when it is asked for
        assert compose["services"][name]["profiles"] == ["commands"]
        assert "restart" not in compose["services"][name]


def test_gpus_are_reserved_where_points_are_run_and_never_on_a_machine_without():
    services, without = load_compose(COMPOSE)["services"], load_compose(COMPOSE, COMPOSE_CPU)["services"]
    for name in OURS:
        reserved = services[name].get("deploy", {}).get("resources", {}).get("reservations", {}).get("devices", [])
        assert [device["capabilities"] for device in reserved] == ([["gpu"]] if name in ("worker", "search") else [])
        assert "deploy" not in without[name]
        for each, extra in ((services, "gpu"), (without, "cpu")):
            assert each[name]["image"] == f"rust-optuna:{extra}"
            assert each[name]["build"]["args"] == {"EXTRA": extra}
            assert (REPOSITORY / each[name]["build"]["dockerfile"]) == DOCKERFILE


# The image


def test_the_dockerfile_passes_its_linter():
    done = run("hadolint", DOCKERFILE)
    assert done.returncode == 0, done.stdout


def test_the_image_does_not_run_as_root_and_tells_of_its_health():
    assert instruction("USER") == "1000:1000"
    order = [name for name, _ in instructions()]
    assert order.index("USER") > max(number for number, name in enumerate(order) if name == "RUN")
    assert instruction("HEALTHCHECK").endswith('CMD ["rust-optuna", "study", "list"]')
    assert instruction("ARG") == "EXTRA=cpu"


def test_the_image_has_the_versions_that_were_tested():
    (first, second) = [value for name, value in instructions() if name == "RUN" and "pip install" in value]
    assert "--constraint constraints.txt" in first
    assert ".[${EXTRA},postgresql]" in first
    assert "--no-deps" in second


def test_dependencies_are_a_layer_that_a_change_of_the_program_leaves_alone():
    steps = [(name, value) for name, value in instructions() if name in ("COPY", "RUN")]
    copied_before = " ".join(value for name, value in steps[: steps.index(("RUN", _installs()[0]))] if name == "COPY")
    assert "rust_optuna/__init__.py" in copied_before
    assert "README.md" not in copied_before


def _installs():
    return [value for name, value in instructions() if name == "RUN" and "pip install" in value]


def test_nothing_but_the_program_can_get_into_an_image():
    lines = [line for line in DOCKERIGNORE.read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    let_in = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {word for name, value in instructions() if name == "COPY" for word in value.split()[:-1]}
    assert {word.split("/")[0] for word in copied} == let_in
    assert all((REPOSITORY / word).exists() for word in copied)


# Kubernetes


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_manifests_keep_to_the_schema_of_kubernetes(path):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    document = load_kubernetes(path)
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document | {"sepc": {}}, kubernetes_validate.latest_version(), strict=True)


@pytest.fixture
def job():
    (document,) = [each for path in KUBERNETES if (each := load_kubernetes(path))["kind"] == "Job"]
    return document["spec"]


def test_pods_share_a_queue_and_end_their_points_before_they_are_killed(job):
    assert "completions" not in job
    pod = job["template"]["spec"]
    (words,) = shell_commands(pod["containers"][0]["args"][0])
    assert pod["terminationGracePeriodSeconds"] > grace(words) + MARGIN
    assert pod["restartPolicy"] == "Never"  # what a podFailurePolicy asks for


def test_pods_are_not_root_and_can_do_little(job):
    pod = job["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}" == instruction("USER")
    for container in (*pod["initContainers"], *pod["containers"]):
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        writable = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
        assert writable == {"/work/storage", "/tmp"}
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
    assert pod["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1


def test_the_password_of_pods_is_that_of_the_secret(job):
    (secret,) = [each for path in KUBERNETES if (each := load_kubernetes(path))["kind"] == "Secret"]
    pod = job["template"]["spec"]
    (volume,) = [volume for volume in pod["volumes"] if "secret" in volume]
    assert volume["secret"]["secretName"] == secret["metadata"]["name"]
    environment = {each["name"]: each["value"] for each in pod["containers"][0]["env"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    (key,) = secret["stringData"]
    assert environment["RUST_OPTUNA_PASSWORD_FILE"] == f"{mounts[volume['name']]}/{key}"


# Shell


def test_scripts_are_valid_shell(tmp_path, job):
    pod = tmp_path / "pod.sh"
    pod.write_text("#!/bin/sh\n" + job["template"]["spec"]["containers"][0]["args"][0])
    done = run("shellcheck", SBATCH, REPOSITORY / ".ci" / "run", pod)
    assert done.returncode == 0, done.stdout
    assert subprocess.run(["bash", "-n", SBATCH], check=False).returncode == 0


def test_slurm_is_told_before_the_first_line_of_the_script():
    lines = SBATCH.read_text().splitlines()
    body = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    directives = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    assert directives  # SLURM reads none after the first command
    assert max(directives) < body
    (words,) = [words for words in shell_commands("\n".join(lines[body:])) if words[:2] == ["worker", "start"]]
    (signal,) = [line for line in lines if line.startswith("#SBATCH --signal=")]
    assert int(signal.rpartition("@")[2]) > grace(words) + MARGIN


def test_yaml_files_hold_no_key_twice():
    class Strict(yaml.SafeLoader):
        pass

    def mapping(loader, node):
        keys = [loader.construct_object(key, deep=True) for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), keys
        loader.flatten_mapping(node)
        return yaml.SafeLoader.construct_mapping(loader, node, deep=True)

    Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    Strict.add_constructor("!reset", lambda loader, node: None)
    for path in (COMPOSE, COMPOSE_CPU, *KUBERNETES):
        yaml.load(path.read_text(), Strict)
