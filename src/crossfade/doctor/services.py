"""Who answers where a service should."""

from __future__ import annotations

import re
import socket
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import requests

from crossfade.doctor.finding import Finding, NotLooked, Site
from crossfade.errors import without_login
from crossfade.settings import Settings
from crossfade.stack import processes
from crossfade.stack.services import Service, embedded_services

_SECONDS = 5

_NOBODY = ("Connection refused", "Name or service not known", "No route to host", "Network is unreachable")
"""What the system says of an address that nobody listens at."""


@dataclass(frozen=True)
class Answer:
    """What came from an address."""

    status: int
    text: str

    def of_router(self) -> bool:
        """Whether a router answers `/health` so."""
        return self.status == 200 and '"ab_split_b"' in self.text

    def of_mlflow(self) -> bool:
        """Whether MLflow answers `/version` so."""
        return self.status == 200 and re.fullmatch(r"\d+\.\d+\.\d+\S*", self.text.strip()) is not None

    def of_airflow(self) -> bool:
        """Whether Airflow answers its health check so."""
        return self.status == 200 and '"metadatabase"' in self.text

    def of_dashboard(self) -> bool:
        """Whether a dashboard answers `/health` so."""
        return self.status == 200 and re.fullmatch(r'\{"status":\s*"ok"\}\s*', self.text) is not None


_ASKED: dict[str, tuple[str, Callable[[Answer], bool]]] = {
    "mlflow": ("/version", Answer.of_mlflow),
    "airflow": ("/api/v2/monitor/health", Answer.of_airflow),
    "router": ("/health", Answer.of_router),
    "dashboard": ("/health", Answer.of_dashboard),
}
"""What each service is asked, and what tells it from another one."""


def look_at_ports(site: Site) -> Iterator[Finding]:
    """Look who answers on the port of each service of this machine."""
    settings = site.settings
    yield from _shared_ports(settings)
    for service in _own(settings):
        listens = _listens(settings.reachable_host, service.port)
        if listens and (strange := _stranger(service.name, service.url)):
            yield Finding(
                f"port {service.port} of the {service.name}",
                f"{strange}; it is {processes.owner_of(service.port)}",
                f"stop that, or set {service.port_setting} to a free port",
            )
        elif not listens and service.name in site.running:
            yield Finding(
                f"the {service.name}",
                "its processes are there, but nobody answers",
                f"{_log_of(service)}; then `crossfade up`",
            )
        elif not listens and site.running:
            yield Finding(
                f"the {service.name}", "it does not run, and others do", f"`crossfade up` starts it; {_log_of(service)}"
            )


def look_at_health(site: Site) -> Iterator[Finding]:
    """Look whether what runs is well."""
    running = [service for service in _own(site.settings) if service.name in site.running]
    if not running:
        raise NotLooked("nothing that `crossfade up` starts is running")
    for service in running:
        if _listens(site.settings.reachable_host, service.port) and not service.is_healthy():
            yield Finding(
                f"the {service.name}",
                f"it answers at {service.url}, and not as a healthy one",
                f"{_log_of(service)}; then `crossfade up`",
            )


def look_at_addresses(site: Site) -> Iterator[Finding]:
    """Look who answers at the addresses that the settings name, where those are not this machine's own services."""
    settings = site.settings
    own = {service.url for service in _own(settings)}
    named = {
        "MLFLOW_TRACKING_URI": ("mlflow", settings.mlflow_tracking_uri),
        "ROUTER_URL": ("router", settings.router_url),
        "AIRFLOW_URL": ("airflow", settings.airflow_url),
    }
    others = {name: asked for name, asked in named.items() if asked[1].startswith("http") and asked[1] not in own}
    if not others:
        raise NotLooked("every address is this machine's own service")
    for setting, (name, url) in others.items():
        shown = without_login(url)
        try:
            strange = _stranger(name, url)
        except requests.RequestException as error:
            yield Finding(f"{setting}={shown}", f"nobody answers: {_reason(error)}", f"start it, or correct {setting}")
        else:
            if strange:
                yield Finding(f"{setting}={shown}", strange, f"correct {setting}: it is not the {name}'s address")


def look_at_mlflow(site: Site) -> Iterator[Finding]:
    """Look whether MLflow answers, if it is the one of this machine."""
    settings = site.settings
    url = settings.mlflow_tracking_uri
    if not site.running or url not in {service.url for service in _own(settings)}:
        raise NotLooked("MLflow is stopped with everything else, or elsewhere (see addresses)")
    try:
        ask("mlflow", url)
    except requests.RequestException as error:
        yield Finding(
            f"MLflow at {url}", f"it does not answer: {_reason(error)}", "`crossfade up`; see var/logs/mlflow_*.log"
        )


def is_answering(name: str, url: str) -> bool:
    """Tell whether a service answers at an address, and not somebody else."""
    try:
        return _ASKED[name][1](ask(name, url))
    except requests.RequestException:
        return False


def ask(name: str, url: str) -> Answer:
    """Ask a service who it is. Raises requests.RequestException."""
    answer = requests.get(f"{url}{_ASKED[name][0]}", timeout=_SECONDS)
    return Answer(answer.status_code, answer.text)


def _own(settings: Settings) -> list[Service]:
    return embedded_services(settings)


def _stranger(name: str, url: str) -> str:
    """Say who answers in the place of a service; empty: the service does. Raises requests.RequestException."""
    try:
        answer = ask(name, url)
    except requests.ReadTimeout:
        return f"whoever listens there has not answered for {_SECONDS} s"
    except requests.ConnectionError as error:
        if isinstance(error, requests.ConnectTimeout) or any(known in str(error) for known in _NOBODY):
            raise
        return f"something else listens there, which does not speak HTTP ({_reason(error)})"
    if _ASKED[name][1](answer):
        return ""
    known = [other for other, (_, fits) in _ASKED.items() if other != name and fits(answer)]
    if name == "router" and answer.text.strip() == "OK":
        known = ["mlflow"]
    who = f"the {known[0]}" if known else "something else"
    return f"{who} answers there, with {answer.status} {answer.text.strip()[:60]!r}"


def _shared_ports(settings: Settings) -> Iterator[Finding]:
    names = defaultdict(list)
    for service in _own(settings):
        names[service.port].append(service)
    for port, services in names.items():
        if len(services) > 1:
            yield Finding(
                f"port {port}",
                f"it is the port of {' and of '.join(service.name for service in services)}",
                f"set {services[-1].port_setting} to a free port",
            )


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_SECONDS):
            return True
    except OSError:
        return False


def _log_of(service: Service) -> str:
    return f"see {service.log_folder}/{service.name}_*.log"


def _reason(error: Exception) -> str:
    text = str(error)
    return next((known for known in (*_NOBODY, "timed out") if known in text), text[:120])
