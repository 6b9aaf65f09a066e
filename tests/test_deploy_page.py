"""Examples of deployment are what their readers take, and name only options that there are."""

from __future__ import annotations

import configparser
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from internvl35 import cli
from internvl35.config import PRESETS
from internvl35.serve.ray.settings import RaySettings

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "examples" / "deploy"
PAGE = (ROOT / "docs" / "howto" / "deploy.md").read_text(encoding="utf-8")
COMMAND = get_command(cli.app)
UNITS = sorted(DEPLOY.glob("*.service"))


def find_mistakes(words):
    """Name what the command line of this package would not take of some words."""
    command, left = COMMAND, list(words)
    while left and left[0] in getattr(command, "commands", {}):
        command = command.commands[left.pop(0)]
    known = {flag: one for one in command.params for flag in one.opts + one.secondary_opts}
    wrong, takes_value = [], False
    for word in left:
        flag, equals, _ = word.partition("=")
        if takes_value:
            takes_value = False
        elif not word.startswith("--"):
            wrong += (
                [word]
                if not any(one.param_type_name == "argument" for one in command.params)
                else []
            )
        elif flag not in known:
            wrong.append(flag)
        else:
            takes_value = not equals and not known[flag].is_flag
    return wrong


def test_mistakes_are_found():
    assert find_mistakes(["serve", "--port", "1", "--model=8B", "--check"]) == []
    assert find_mistakes(["serve", "gatway", "--prot", "1"]) == ["gatway", "--prot", "1"]


def load_all(name):
    return [one for one in yaml.safe_load_all((DEPLOY / name).read_text("utf-8")) if one]


def test_compose_services_start_what_there_is_and_agree():
    (compose,) = load_all("compose.yaml")
    services = compose["services"]
    commands = {name: one["command"] for name, one in services.items()}
    assert {name: find_mistakes(words) for name, words in commands.items()} == {
        name: [] for name in commands
    }
    assert peers_of(commands["gateway"]) == {
        f"{name}:{port_of(words)}" for name, words in commands.items() if name != "gateway"
    }
    for one in services.values():
        assert set(one["secrets"]) <= set(compose["secrets"])
        assert set(one["networks"]) <= set(compose["networks"])
    assert compose["networks"]["links"]["internal"] is True
    assert services["vision-0"]["networks"] == services["language-0"]["networks"] == ["links"]


def peers_of(words):
    values = [word.partition("=")[2] for word in words if "-peers=" in word]
    return {address for value in values for address in value.split(",")}


def port_of(words):
    (listen,) = [word for word in words if word.startswith("--listen=")]
    return int(listen.rpartition(":")[2])


def test_kubernetes_objects_start_what_there_is_and_agree():
    objects = load_all("kubernetes.yaml")
    assert len({(one["kind"], one["metadata"]["name"]) for one in objects}) == len(objects)
    sets = [one for one in objects if one["kind"] in ("Deployment", "StatefulSet")]
    reachable, asked = set(), set()
    for one in sets:
        pod = one["spec"]["template"]
        assert one["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
        (container,) = pod["spec"]["containers"]
        assert find_mistakes(container["args"]) == []
        volumes = {volume["name"] for volume in pod["spec"]["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        (secret,) = [one["secret"] for one in pod["spec"]["volumes"] if "secret" in one]
        assert secret["defaultMode"] == 0o440  # with a group: its own 644 is refused
        assert pod["spec"]["securityContext"]["fsGroup"] == 1000
        assert pod["spec"]["terminationGracePeriodSeconds"] > 60
        asked |= peers_of(container["args"])
        if one["kind"] == "StatefulSet":
            reachable.add(f"{one['spec']['serviceName']}:{port_of(container['args'])}")
    assert asked == reachable
    headless = [one for one in objects if one.get("spec", {}).get("clusterIP") == "None"]
    named = {f"{one['metadata']['name']}:{one['spec']['ports'][0]['port']}" for one in headless}
    assert named == reachable
    services = [one["spec"] for one in objects if one["kind"] == "Service"]
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in sets]
    assert sorted(map(str, labels)) == sorted(str(one["selector"]) for one in services)


def test_the_image_is_made_of_what_there_is():
    text = (DEPLOY / "Dockerfile").read_text("utf-8")
    for line in re.findall(r"^COPY (.+)$", text, re.MULTILINE):
        *sources, _ = line.split()
        assert all((ROOT / source).exists() for source in sources), line
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', text)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert set(extras.split(",")) <= set(project["optional-dependencies"])
    (user,) = re.findall(r"useradd --uid (\d+)", text)
    for one in load_all("kubernetes.yaml"):
        if one["kind"] in ("Deployment", "StatefulSet"):
            context = one["spec"]["template"]["spec"]["securityContext"]
            assert context["runAsUser"] == int(user)


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_units_start_what_there_is(path):
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str
    unit.read_string(path.read_text("utf-8"))
    assert unit.sections() == ["Unit", "Service", "Install"]
    service = unit["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert program.endswith("/internvl35")
    assert find_mistakes(words) == []
    assert int(service["TimeoutStopSec"]) > 60
    assert service["DynamicUser"] == "yes"


def test_the_ray_example_has_arguments_that_there_are(tmp_path):
    (config,) = load_all("ray.yaml")
    (application,) = config["applications"]
    module, _, function = application["import_path"].partition(":")
    file = ROOT / "src" / Path(*module.split(".")) / "__init__.py"
    assert f"def {function}(" in file.read_text("utf-8")
    (tmp_path / "link").write_text("x" * 40)
    settings = RaySettings.read(application["args"] | {"secret_file": str(tmp_path / "link")})
    assert settings.model == "8B"


def test_commands_of_the_page_are_taken():
    lines = [
        line
        for block in re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
        for line in block.splitlines()
    ]
    ours = [line for line in lines if re.search(r"\binternvl35 (serve|chat|bench)\b", line)]
    assert ours
    for line in [*ours, *re.findall(r"`(internvl35 [^`]+)`", PAGE)]:
        words = shlex.split(line[line.index("internvl35 ") :])[1:]
        assert find_mistakes(words) == [], line
    for flag in re.findall(r"`(--[a-z-]+)", PAGE):
        commands = (["serve"], ["serve", "gateway"], ["serve", "vision"], ["serve", "language"])
        assert any(not find_mistakes([*path, f"{flag}=x"]) for path in commands), flag


def test_the_table_of_sizes_is_that_of_the_presets():
    rows = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \| (\d+) \| (\d) \|$", PAGE, re.MULTILINE)
    expected = []
    for name, preset in PRESETS.items():
        weights, num_gpus = 2 * preset.language.num_parameters, 1
        while weights / num_gpus > 0.8 * 80 * 2**30:
            num_gpus *= 2
        heads = preset.language.num_kv_heads
        expected.append((name, f"{weights / 2**30:.1f}", str(num_gpus), str(heads)))
    assert sorted(rows) == sorted(expected)
