"""The networks between hosts: bridges in a network namespace that nothing else is in."""

import os
from pathlib import Path

from machine import run

# As on the networks of the NixOS test driver.
PREFIX_LENGTH = 24


def address(vlan: int, number: int) -> str:
    """The address on a network of the host with this number."""
    return f"192.168.{vlan}.{number}"


def bridge(vlan: int) -> str:
    return f"br{vlan}"


class Network:
    """Bridges for as long as the scenario runs. The namespace goes with all that is in it."""

    def __init__(self, vlans: set[int]):
        self.name = f"aspen-hosts-{os.getpid()}"
        self.vlans = vlans

    def __enter__(self) -> "Network":
        run("ip", "netns", "add", self.name)
        for vlan in sorted(self.vlans):
            self._run("ip", "link", "add", bridge(vlan), "type", "bridge")
            self._run("ip", "link", "set", bridge(vlan), "up")
        return self

    def __exit__(self, *_: object) -> None:
        run("ip", "netns", "delete", self.name)

    def _run(self, *words: str) -> None:
        run("nsenter", f"--net=/run/netns/{self.name}", *words)


def interface_files(links: list[tuple[str, int]], number: int, routes: list[tuple[str, str]]) -> dict[str, str]:
    """What systemd-networkd needs for the interfaces of a host: name and network of each. `routes` are single
    addresses, each with the gateway that leads there, over the first interface."""
    files = {}
    for name, vlan in links:
        text = f"[Match]\nName={name}\n\n[Network]\nAddress={address(vlan, number)}/{PREFIX_LENGTH}\n"
        text += "LinkLocalAddressing=no\nIPv6AcceptRA=no\nConfigureWithoutCarrier=yes\n"
        for to, gateway in routes if (name, vlan) == links[0] else []:
            text += f"\n[Route]\nDestination={to}/32\nGateway={gateway}\n"
        files[str(Path("/etc/systemd/network") / f"10-{name}.network")] = text
    return files
