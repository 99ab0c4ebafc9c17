"""The files for deployment, loaded by the programs they are for."""

import asyncio
import json
import os
import re
import shutil
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from pyapp.web.observe import DatabaseCollector, Metrics

from .commands import ROOT, finished, outcome, output_of, start
from .helpers import wait_for

DEPLOY = ROOT / ".github" / "deploy"
PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


def program(name: str) -> str:
    found = shutil.which(name, path=PATH)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def test_prometheus_takes_the_rules_and_the_alerts_fire_when_they_should() -> None:
    promtool = program("promtool")
    output_of(promtool, "check", "rules", "prometheus.rules.yml", cwd=DEPLOY)
    output_of(promtool, "test", "rules", "prometheus.test.yml", cwd=DEPLOY)
    output_of(promtool, "check", "config", "--syntax-only", "prometheus.yml", cwd=DEPLOY)


def metric_names(text: str) -> set[str]:
    return set(re.findall(r"\bagent_progress_\w+", text))


def test_rules_and_dashboard_name_metrics_that_exist(dsn: str) -> None:
    from prometheus_client import generate_latest

    from pyapp.web.database import Database

    metrics = Metrics()

    async def look() -> None:
        async with Database(dsn) as database:
            collector = DatabaseCollector(database, lambda: 0)
            await collector.look()
        metrics.registry.register(collector)

    asyncio.run(look())
    served = metric_names(generate_latest(metrics.registry).decode())
    served |= {f"{name}_bucket" for name in served}
    rules = yaml.safe_load((DEPLOY / "prometheus.rules.yml").read_text())
    asked = {rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    panels = json.loads((DEPLOY / "grafana.json").read_text())["panels"]
    asked |= {target["expr"] for panel in panels for target in panel["targets"]}
    assert metric_names(" ".join(asked)) - served == set()


def test_the_dashboard_of_grafana_lays_its_panels_side_by_side(tmp_path: Path) -> None:
    dashboard = json.loads((DEPLOY / "grafana.json").read_text())
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    taken = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    promtool = program("promtool")
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    rules = {"groups": [{"name": "g", "rules": [{"record": f"r:{i}", "expr": e} for i, e in enumerate(expressions)]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    output_of(promtool, "check", "rules", tmp_path / "rules.yml", cwd=DEPLOY)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def below_a_path(dsn: str, tmp_path: Path) -> Iterator[str]:
    """The service with a token, below a path of a real nginx, as the snippet has it."""
    nginx = program("nginx")
    ports = free_port(), free_port()
    service = start(
        "serve", "--dsn", dsn, "--port", ports[0],
        env={**os.environ, "AGENT_PROGRESS_TOKEN": "secret"}, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    snippet = (DEPLOY / "nginx.conf").read_text().replace("127.0.0.1:8080", f"127.0.0.1:{ports[0]}")
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    (tmp_path / "nginx.conf").write_text(
        f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\nevents {{}}\nhttp {{ access_log off;\n"
        + "".join(f"{kind}_temp_path {tmp_path}/{kind};\n" for kind in temporary)
        + f"server {{ listen 127.0.0.1:{ports[1]};\n{snippet} }} }}\n"
    )
    proxy = subprocess.Popen([nginx, "-c", tmp_path / "nginx.conf"], stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{ports[1]}/progress"

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/healthz", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    try:
        wait_for(ready)
        yield url
    finally:
        proxy.terminate()
        proxy.wait(60)
        service.terminate()
        outcome(service)


def test_nginx_serves_the_pages_below_a_path(below_a_path: str) -> None:
    root = below_a_path.removesuffix("/progress")
    with httpx.Client(base_url=root, trust_env=False, follow_redirects=True, headers={"Accept": "text/html"}) as client:
        login = client.get("/progress/")
        assert login.url.path == "/progress/login"
        (action,) = re.findall(r'<form method="post" action="([^"]+)"', login.text)
        entered = client.post(action, data={"token": "secret", "next": "/workflows"})
        assert (entered.status_code, entered.url.path) == (200, "/progress/workflows")
        for page in ("/progress/", "/progress/workflows"):
            text = client.get(page).text
            named = set(re.findall(r'(?:href|src|action)="(/[^"#]*)"', text))
            assert named
            assert [name for name in named if not name.startswith("/progress/")] == []
            for name in named:
                assert client.get(name.replace("&amp;", "&")).status_code == 200, name
        (script,) = [name for name in named if "dashboard.js" in name]
        code = client.get(script).text
        assert re.findall(r"[\"`]/(?!progress/)\w", code) == []
        address = "/progress/api/v1/stream"
        with client.stream("GET", address) as stream:
            assert next(stream.iter_lines()).startswith(("event: ", "id: ", ":", "retry: "))


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = program("systemd-analyze")
    unit = (DEPLOY / "agent-progress.service").read_text()
    (tmp_path / "agent-progress.service").write_text(
        unit.replace("/opt/agent-progress/bin/agent-progress", "/bin/true")
    )
    done = finished(analyze, "verify", "--man=no", tmp_path / "agent-progress.service")
    assert "agent-progress.service" not in done.stderr, done.stderr


def test_compose_runs_the_commands_that_there_are() -> None:
    services: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert list(services) == ["database", "migrate", "serve"]
    docker = (DEPLOY / "Dockerfile").read_text()
    for extra in re.findall(r"\[(\w+(?:,\w+)*)\]\"", docker)[0].split(","):
        assert extra in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def test_the_table_names_every_variable_that_is_read() -> None:
    page = (DEPLOY / "README.md").read_text()
    read = {
        name
        for file in (ROOT / "pyapp").rglob("*.py")
        for name in re.findall(r"environ[^\n]*?\"([A-Z]+[A-Z_]+)\"", file.read_text("utf-8"))
    } - {"LOGNAME", "SHELL", "TERM", "PG"}
    assert {name for name in read if f"`{name}`" not in page} == set()


@pytest.mark.parametrize("file", sorted(Path(ROOT / ".github").rglob("*.y*ml")), ids=lambda file: file.name)
def test_every_yaml_file_can_be_read(file: Path) -> None:
    assert yaml.safe_load(file.read_text("utf-8"))
