"""The machines of each scenario: what nixos/tests/default.nix says by services.aspen, in a host's own files."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from network import address

NIXOS_TESTS = Path(__file__).parents[2] / "nixos" / "tests"
# For tests alone, as everyone can read them.
KEYS = json.loads((NIXOS_TESTS / "keys.json").read_text())
IROH_PORT = 4601
RELAY_PORT = 4602
FLEET = ("node1", "node2", "node3")
# The hosts are on the disk of the machine that runs them, which may have little room left: they keep less of it
# free than a machine of their own would.
DISK_RESERVE_BYTES = 32 * 1024 * 1024

# What openFirewall amounts to. Everything else that comes from outside is dropped.
FIREWALL = """\
flush ruleset
table inet filter {
  chain input {
    type filter hook input priority 0; policy drop;
    iif lo accept
    ct state established,related accept
    meta l4proto { 1, 58 } accept comment "ICMP, whose names a small system does not know"
    %s
  }
}
"""


@dataclass
class Host:
    """A machine before its first start."""

    number: int
    settings: dict[str, object]
    vlans: tuple[int, ...] = (1,)
    routes: list[tuple[str, str]] = field(default_factory=list)
    # Whether the node starts with the machine.
    starts: bool = True
    open_ports: str = f"udp dport {IROH_PORT} accept"
    files: dict[str, str] = field(default_factory=dict)
    units: tuple[str, ...] = ()
    # Files of the system without which the scenario would show nothing.
    needs: tuple[str, ...] = ()

    def all_files(self) -> dict[str, str]:
        settings = self.settings | {"storage_options.disk_reserve_bytes": DISK_RESERVE_BYTES}
        files = {"/etc/aspen/aspen.toml": toml(settings), "/etc/nftables.conf": FIREWALL % self.open_ports}
        return files | self.files

    def all_units(self) -> tuple[str, ...]:
        return ("nftables.service", *(("aspen.service",) if self.starts else ()), *self.units)


def toml(settings: dict[str, object]) -> str:
    """Settings as a file: strings, numbers and lists of strings are written as in JSON, peers as tables."""
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if key != "peers"]
    for peer in settings.get("peers", []):
        lines += ["", "[[peers]]", *(f"{key} = {json.dumps(value)}" for key, value in peer.items())]
    return "\n".join(lines) + "\n"


def peers(**common: object) -> list[dict[str, object]]:
    """The fleet, described once."""
    return [
        {"node_id": number, "public_key": KEYS[name]["public"], "addresses": [f"{address(1, number)}:{IROH_PORT}"]}
        | common
        for number, name in enumerate(FLEET, 1)
    ]


def member(number: int, fleet: list[dict[str, object]], **more: object) -> Host:
    """One of three that found a cluster together."""
    settings = {"node_id": number, "bootstrap": "static", "peers": fleet} | more
    return Host(number, settings, files=secret_key(f"node{number}"))


def secret_key(name: str) -> dict[str, str]:
    return {"/etc/credstore/aspen.iroh-secret-key": KEYS[name]["secret"] + "\n"}


def members() -> dict[str, Host]:
    return {name: member(number, peers()) for number, name in enumerate(FLEET, 1)}


def lifecycle() -> dict[str, Host]:
    settings = {"node_id": 9, "bootstrap": "manual", "peers": peers()}
    return members() | {
        "joiner": Host(4, {}, starts=False),
        "replacement": Host(9, settings, starts=False, files=secret_key("replacement")),
    }


def backup() -> dict[str, Host]:
    often = "[Timer]\nOnCalendar=\nOnCalendar=*:*:0/5\nRandomizedDelaySec=0\nAccuracySec=1s\n"
    keep = "[Service]\nEnvironment=BACKUP_KEEP=2\n"
    return {
        "source": Host(
            1,
            {"node_id": 1},
            files={
                "/etc/systemd/system/aspen-backup.timer.d/often.conf": often,
                "/etc/systemd/system/aspen-backup.service.d/keep.conf": keep,
            },
            units=("aspen-backup.timer",),
        ),
        "fresh": Host(2, {"node_id": 1}),
    }


def relay() -> dict[str, Host]:
    """Two nodes share a network with the first alone, which serves the relay under its first address."""
    url = f"http://{address(1, 1)}:{RELAY_PORT}"
    fleet = peers(addresses=[], relay_url=url)
    hosts = {
        name: member(number, fleet, network_profile="wan", iroh_relay=url) for number, name in enumerate(FLEET, 1)
    }
    hosts["node1"].vlans = (1, 2)
    hosts["node1"].settings |= {"serve_relay": f"0.0.0.0:{RELAY_PORT}"}
    hosts["node1"].open_ports += f"\n    tcp dport {RELAY_PORT} accept"
    hosts["node3"].vlans = (2,)
    hosts["node3"].routes = [(address(1, 1), address(2, 1))]
    return hosts


def trouble() -> dict[str, Host]:
    # Debian's name for the machine. One that is not there is passed over by the loader, and the clock stays right.
    library = f"/usr/lib/{os.uname().machine}-linux-gnu/faketime/libfaketime.so.1"
    return {"node": Host(1, {"node_id": 1}, files={"/etc/faketime-library": library + "\n"}, needs=(library,))}


SCENARIOS: dict[str, Callable[[], dict[str, Host]]] = {
    "cluster": members,
    "partition": members,
    "crash": members,
    "lifecycle": lifecycle,
    "upgrade": members,
    "relay": relay,
    "backup": backup,
    "trouble": trouble,
}
