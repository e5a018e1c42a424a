"""Who may come in, where the services listen beyond this machine."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from crossfade.doctor.finding import Finding, Site


def look_at_access(site: Site) -> Iterator[Finding]:
    """Look for what is open to whoever reaches the ports."""
    settings = site.settings
    if _is_this_machine_only(settings.bind_host):
        return
    looked_at = f"BIND_HOST={settings.bind_host}"
    if settings.router_admin_token is None:
        yield Finding(
            looked_at,
            "ROUTER_ADMIN_TOKEN is not set: whoever reaches the ports changes the split and rolls back",
            "set ROUTER_ADMIN_TOKEN (docs/security.md)",
        )
    if settings.router_api_token is None:
        yield Finding(
            looked_at,
            "ROUTER_API_TOKEN is not set: whoever reaches the router predicts, sends labels, and reads /monitor",
            "set ROUTER_API_TOKEN (docs/security.md)",
        )
    if settings.airflow_password.get_secret_value() == "admin":
        yield Finding(looked_at, "Airflow's password is still admin", "set AIRFLOW_PASSWORD")


def _is_this_machine_only(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
