"""The images for serving and the compose file that runs them, as far as they can be judged without an engine."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from clf.service.settings import Settings

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs" / "serve.md"
BIN = Path(sys.executable).parent


def compose(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Ask Compose what it makes of the file in a folder."""
    command = [str(BIN / "docker-compose"), *words, "config"]
    return subprocess.run(
        command, cwd=folder, env={"PATH": "/usr/bin:/bin"} | variables, capture_output=True, text=True
    )


def service(profile: str, **variables: str) -> dict[str, Any]:
    """The one service of a profile, with everything filled in."""
    done = compose(ROOT, "--profile", profile, **variables)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load(done.stdout)
    assert list(config["services"]) == [f"clf-{profile}"]
    assert set(config["volumes"]) == {"uploads", "processed"}
    found: dict[str, Any] = config["services"][f"clf-{profile}"]
    return found


def pins(lock: str) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", (ROOT / lock).read_text("utf-8"), flags=re.MULTILINE):
        found.setdefault(name, set()).add(version)
    return found


def test_nothing_starts_without_a_profile() -> None:
    done = compose(ROOT)
    assert done.returncode == 0, done.stderr
    assert not yaml.safe_load(done.stdout).get("services")
    assert "version" not in yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_service_is_reachable_from_its_own_machine_and_may_do_nothing_it_does_not_need(profile: str) -> None:
    found = service(profile)
    assert [(port["host_ip"], port["published"], port["target"]) for port in found["ports"]] == [
        ("127.0.0.1", "8000", 8000)
    ]
    assert found["image"] == f"clf:{profile}"
    assert found["build"]["context"] == str(ROOT)
    assert (found["build"]["dockerfile"], found["build"]["args"]) == ("docker/Dockerfile.serve", {"FLAVOUR": profile})
    assert (found["read_only"], found["cap_drop"], found["user"]) == (True, ["ALL"], "10001:10001")
    assert found["restart"] == "unless-stopped"
    model, *kept = found["volumes"]
    assert (model["read_only"], model["bind"]) == (True, {"create_host_path": False})
    assert [(each["source"], each["target"]) for each in kept] == [
        ("uploads", "/app/uploads"),
        ("processed", "/app/processed"),
    ]
    health = found["healthcheck"]
    times = [health[name] for name in ("interval", "timeout", "start_period", "retries")]
    assert times == ["30s", "10s", "3m0s", 3]
    assert "curl" not in health["test"]


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_every_setting_stands_in_the_file_with_its_default(profile: str) -> None:
    environment = service(profile)["environment"]
    settings = Settings.read({}, {name: str(value) for name, value in environment.items() if value is not None})
    default = Settings()
    differing = {each.name for each in fields(Settings) if getattr(settings, each.name) != getattr(default, each.name)}
    assert differing == {"model", "host", "device"}
    assert {f"CLF_{each.name.upper()}" for each in fields(Settings)} <= set(environment)


def test_a_variable_of_the_shell_changes_a_setting() -> None:
    found = service("cpu", **{f"CLF_{each.name.upper()}": "7" for each in fields(Settings)})["environment"]
    fixed = {name for name, value in found.items() if value != "7"}
    assert fixed == {"CLF_MODEL", "CLF_HOST", "CLF_PORT", "CLF_DEVICE"}
    section = DOCS.read_text("utf-8").partition("## In a container")[2]
    assert "each setting above but `CLF_MODEL`, `CLF_HOST`, `CLF_PORT` and `CLF_DEVICE`" in section


def test_the_variables_of_the_file_alone_say_what_is_mounted_served_published_and_how_it_stops() -> None:
    own = {"CLF_MODELS": "/srv/models", "CLF_MODEL_NAME": "other", "CLF_PUBLISH": "0.0.0.0:80", "CLF_STOP": "2m"}
    found = service("cpu", **own)
    assert (found["volumes"][0]["source"], found["environment"]["CLF_MODEL"]) == ("/srv/models", "/app/models/other")
    assert [(port["host_ip"], port["published"], port["target"]) for port in found["ports"]] == [
        ("0.0.0.0", "80", 8000)
    ]
    assert found["stop_grace_period"] == "2m0s"
    [port] = service("cpu", CLF_PUBLISH="80")["ports"]
    assert (port.get("host_ip"), port["published"]) == (None, "80")


def test_the_file_takes_no_variable_that_is_not_described_and_none_of_others() -> None:
    taken = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text("utf-8")))
    assert taken == {name for name in taken if name.startswith("CLF_")}
    assert taken <= set(re.findall(r"^\| `(CLF_\w+)` \|", DOCS.read_text("utf-8"), flags=re.MULTILINE))
    Settings.read({}, dict.fromkeys(taken - {f"CLF_{each.name.upper()}" for each in fields(Settings)}, "x"))


def test_a_container_that_is_stopped_is_given_more_time_than_a_request() -> None:
    assert service("cpu")["stop_grace_period"] == "45s"
    assert Settings().timeout + 15 == 45


def test_only_the_profile_gpu_asks_for_gpus() -> None:
    assert "deploy" not in service("cpu")
    found = service("gpu")
    [device] = found["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": -1, "capabilities": ["gpu"]}
    assert found["environment"]["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert found["environment"]["NVIDIA_DRIVER_CAPABILITIES"] == "compute,utility"


def test_a_key_that_compose_does_not_know_is_an_error(tmp_path: Path) -> None:
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    (tmp_path / "docker-compose.yml").write_text(text.replace("restart:", "restrat:"))
    assert compose(tmp_path, "--profile", "cpu").returncode != 0


@pytest.mark.parametrize("file", ["Dockerfile", "docker/Dockerfile.serve"])
def test_hadolint_has_nothing_to_say(file: str) -> None:
    done = subprocess.run([str(BIN / "hadolint"), file], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("file", ["Dockerfile", "docker/Dockerfile.serve"])
def test_every_stage_takes_the_base_that_is_given_and_nothing_is_fetched_to_read_the_file(file: str) -> None:
    text = (ROOT / file).read_text("utf-8")
    assert {line.split()[1] for line in text.splitlines() if line.startswith("FROM")} == {"${BASE_IMAGE}"}
    assert "# syntax" not in text
    assert "<<" not in text
    assert "\nUSER 10001:10001\n" in text


@pytest.mark.parametrize("lock", ["requirements-serve.lock", "requirements-serve-gpu.lock"])
def test_the_images_hold_what_was_tested_and_no_torch(lock: str) -> None:
    tested, held = pins("requirements-dev.lock"), pins(lock)
    assert {"fastapi", "uvicorn", "numpy", "pillow", "python-multipart"} <= set(held)
    assert not {"torch", "timm", "lightning", "torchvision", "onnx"} & set(held)
    shared = set(held) & set(tested)
    assert {name: held[name] for name in shared} == {name: tested[name] for name in shared}


def test_another_index_gives_torch_and_what_belongs_to_it_and_the_lock_gives_the_rest(tmp_path: Path) -> None:
    text = (ROOT / "Dockerfile").read_text("utf-8")
    [program] = re.findall(r"awk '(.*?)'", text)
    [expression] = re.findall(r"sed -nE '(.*?)'", text)
    lock = ROOT / "requirements.lock"
    (tmp_path / "rest.lock").write_text(subprocess.check_output(["awk", program, str(lock)], text=True))
    rest, everything = pins(str(tmp_path / "rest.lock")), pins("requirements.lock")
    left_out = everything.keys() - rest.keys()
    assert left_out >= {"torch", "torchvision", "triton", "nvidia-cudnn-cu13", "cuda-toolkit"}
    assert {name for name in left_out if not name.startswith(("nvidia-", "cuda-"))} == {
        "torch",
        "torchvision",
        "triton",
    }
    assert "torchmetrics" in rest
    hashed = re.findall(r"--hash=sha256:", (tmp_path / "rest.lock").read_text())
    assert len(rest) < len(hashed) < lock.read_text().count("--hash=sha256:")
    chosen = subprocess.check_output(["sed", "-nE", expression, str(lock)], text=True).splitlines()
    assert chosen == [f"{name}=={next(iter(everything[name]))}" for name in ("torch", "torchvision")]


def test_what_is_served_on_gpus_is_the_same_version_as_on_cpus() -> None:
    assert pins("requirements-serve-gpu.lock")["onnxruntime-gpu"] == pins("requirements-serve.lock")["onnxruntime"]
