"""The files by which it is run for long: checked by their own tools, and done outside of docker."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import psycopg
import pytest
import typer
import yaml
from conftest import PROJECT
from oracle import lines_of, report
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from processor.edges.embedded import binaries
from processor.shell.cli import app

DOCKERFILE = (PROJECT / "Dockerfile").read_text()
COMPOSE = (PROJECT / "docker-compose.yml").read_text()
SERVICES = yaml.safe_load(COMPOSE)["services"]
UNIT = PROJECT / "deploy/processor.service"
needs_systemd = pytest.mark.skipif(
    not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed"
)


def settings():
    """Return the names of all settings in the environment."""
    commands = [typer.main.get_command(app)]
    for command in commands:
        commands += getattr(command, "commands", {}).values()
    return {parameter.envvar for command in commands for parameter in command.params}


def test_the_dockerfile_is_linted():
    """By hadolint, without a word."""
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, PROJECT / "Dockerfile"], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, b"")
    assert re.findall(r"^USER (\d+)$", DOCKERFILE, re.MULTILINE) == ["10001"]


def test_settings_in_files_are_those_there_are():
    """No file sets what nobody reads."""
    files = [DOCKERFILE, COMPOSE, (PROJECT / "deploy/processor.env").read_text(), UNIT.read_text()]
    named = {name for file in files for name in re.findall(r"\bPROCESSOR_\w+", file)}
    assert len(named) > 3
    assert named - settings() == set()


def test_services_find_what_they_mount_and_are_told():
    """Each file is there, each variable in the example, and images are of one version."""
    mounted = [volume for service in SERVICES.values() for volume in service.get("volumes", [])]
    files = {volume.split(":")[0] for volume in mounted if volume.startswith("./")}
    assert {file for file in files if not (PROJECT / file).exists()} == {"./logs"}
    example = (PROJECT / "deploy/env.example").read_text()
    assert set(re.findall(r"\$\{(\w+)", COMPOSE)) == set(
        re.findall(r"^(\w+)=", example, re.MULTILINE)
    )
    images = [service["image"] for service in SERVICES.values() if "image" in service]
    assert all(re.search(r":v?\d", image) for image in images)
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_the_processor_is_confined():
    """Its container writes to its volume only, and has no rights of its own."""
    processor = SERVICES["processor"]
    assert processor["read_only"]
    assert processor["cap_drop"] == ["ALL"]
    assert [volume for volume in processor["volumes"] if not volume.endswith(":ro")] == [
        "checkpoints:/var/lib/processor"
    ]


def test_the_services_work_together_outside_of_docker(command, make_log, connect):
    """Migrated by the owner, users made by psql; then one of them writes and the other reads."""
    owner = command.environment["PROCESSOR_DATABASE_URL"]

    def url_of(user):
        return make_conninfo(**{**conninfo_to_dict(owner), "user": user})

    command(*SERVICES["migrate"]["command"])
    psql = [
        argument.replace("/sql/roles.sql", str(PROJECT / "schema/roles.sql")).replace(
            "/sql/users.sql", str(PROJECT / "deploy/users.sql")
        )
        for argument in SERVICES["users"]["command"][:-1]
    ]
    secrets = {"WRITER_PASSWORD": "it's w", "READER_PASSWORD": "r"}
    assert secrets.keys() < SERVICES["users"]["environment"].keys()
    try:
        for _ in range(2):  # again: with each `docker compose up`
            subprocess.run(
                [binaries() / psql[0], *psql[1:], owner], env=os.environ | secrets, check=True
            )
        (command.folder / "logs").mkdir()
        log = make_log("logs/app.log", events=500)
        command.environment["PROCESSOR_DATABASE_URL"] = url_of("writer")
        arguments = [a.replace("/logs/", "logs/") for a in SERVICES["processor"]["command"]]
        command(*arguments, "--once")
        command.environment["PROCESSOR_DATABASE_URL"] = url_of("reader")
        assert command.report() == report(lines_of(log))
        refused = pytest.raises(psycopg.errors.InsufficientPrivilege)
        with psycopg.connect(url_of("reader")) as reader, refused:
            reader.execute("DELETE FROM hourly_counts")
    finally:
        with connect() as connection:
            connection.execute("DROP OWNED BY processor_reader, processor_writer")
            connection.execute("DROP ROLE IF EXISTS reader, writer")


@needs_systemd
def test_the_unit_is_valid_and_confined(tmp_path):
    """By systemd's own judgement; of 100 points of exposure, it has a few."""
    unit = tmp_path / UNIT.name
    program = str(Path(sys.executable).with_name("processor"))
    unit.write_text(UNIT.read_text().replace("/opt/processor/bin/processor", program))
    for check in (["verify"], ["security", "--offline=true", "--threshold=20", "--no-pager"]):
        done = subprocess.run(
            ["systemd-analyze", *check, unit], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stderr == ""


def copied(to):
    """Copy what the image is built from, as the Dockerfile and .dockerignore say."""
    kept = re.findall(r"^!(.+)$", (PROJECT / ".dockerignore").read_text(), re.MULTILINE)
    for *sources, target in map(
        str.split, re.findall(r"^COPY (?!--)(.+)$", DOCKERFILE, re.MULTILINE)
    ):
        for source in sources:
            assert any(fnmatch(source, pattern) for pattern in kept)
            if (PROJECT / source).is_dir():
                shutil.copytree(PROJECT / source, to / target)
            else:
                shutil.copy(PROJECT / source, to / target)


@pytest.mark.torture
def test_the_image_is_built_outside_of_docker(tmp_path, command, make_log):
    """Its steps give a processor that needs nothing of what it was built from, nor of extras."""
    source, target = tmp_path / "src", tmp_path / "opt"
    source.mkdir()
    copied(source)
    (step,) = re.findall(r"^RUN (python -m venv .+?[^\\])$", DOCKERFILE, re.MULTILINE | re.DOTALL)
    step = step.replace("\\\n", " ").replace("/opt/processor", shlex.quote(str(target)))
    subprocess.run(
        ["bash", "-euc", step.replace("python", sys.executable, 1)], cwd=source, check=True
    )
    shutil.rmtree(source)
    log = make_log(events=500)
    for arguments in (["migrate"], ["run", "--once", log]):
        subprocess.run(
            [target / "bin/processor", *arguments],
            cwd=tmp_path,
            env=command.environment,
            check=True,
        )
    assert command.report() == report(lines_of(log))
