#!/usr/bin/env python3
"""Runs the scenarios of nixos/tests on Debian hosts under systemd-nspawn, one after the other.

scripts/test-hosts.sh makes what this needs, and calls it.
"""

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from machine import Machine, run
from machines import NIXOS_TESTS, SCENARIOS, Host
from network import Network, bridge, interface_files

# The exit code for hosts that cannot be run.
CANNOT = 77
UNIT_DIRECTORY = "/etc/systemd/system"


@dataclass
class Result:
    scenario: str
    seconds: float
    error: str | None


def place(layer: Path, package: Path, units: Path) -> None:
    """Makes the disk's second layer: what the package installs."""
    for name in ("aspen-node", "aspen"):
        target = layer / "usr/bin" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(package / name, target)
    target = layer / "usr/lib/systemd/system"
    target.mkdir(parents=True)
    for unit in [*units.glob("*.service"), *units.glob("*.timer")]:
        shutil.copy2(unit, target)
    script = layer / "usr/libexec/aspen-backup"
    script.parent.mkdir(parents=True)
    shutil.copy2(units / "aspen-backup.sh", script)
    script.chmod(0o755)


def prepare(machine: Machine, host: Host) -> None:
    for path in host.needs:
        assert machine.has_file(path), f"{machine.name} has no {path}"
    links = [(name, vlan) for name, vlan in zip(machine.links, host.vlans, strict=True)]
    files = host.all_files() | interface_files(links, host.number, host.routes)
    for path, text in files.items():
        machine.write_file(path, text, 0o600 if "credstore" in path else 0o644)
    for unit in ("systemd-networkd.service", *host.all_units()):
        target = "timers" if unit.endswith(".timer") else "multi-user"
        machine.link_file(f"{UNIT_DIRECTORY}/{target}.target.wants/{unit}", f"/usr/lib/systemd/system/{unit}")


@contextlib.contextmanager
def subtest(name: str) -> Iterator[None]:
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print(f"  FAIL {time.monotonic() - began:6.1f} s  {name}", flush=True)
        raise
    print(f"  ok   {time.monotonic() - began:6.1f} s  {name}", flush=True)


def play(scenario: str, debian: Path, package: Path, scratch: Path, logs: Path) -> Result:
    """Runs one scenario on fresh hosts. They are gone afterwards; their journals stay if it failed."""
    print(f"{scenario}:", flush=True)
    began = time.monotonic()
    hosts = SCENARIOS[scenario]()
    state = Path(tempfile.mkdtemp(prefix=f"{scenario}-", dir=scratch))
    machines: dict[str, Machine] = {}
    error = None
    with Network({vlan for host in hosts.values() for vlan in host.vlans}) as network:
        try:
            for name, host in hosts.items():
                links = {f"eth{index}": bridge(vlan) for index, vlan in enumerate(host.vlans, 1)}
                machines[name] = Machine(name, links, network.name, [package, debian], state / name)
                prepare(machines[name], host)

            def start_all() -> None:
                for machine in machines.values():
                    machine.start()

            source = (NIXOS_TESTS / "common.py").read_text() + (NIXOS_TESTS / f"{scenario}.py").read_text()
            code = compile(source, f"nixos/tests/common.py + {scenario}.py", "exec")
            exec(code, machines | {"start_all": start_all, "subtest": subtest})  # noqa: S102
        except Exception as failure:
            error = str(failure) or type(failure).__name__
            traceback.print_exc()
            for name, machine in machines.items():
                journal = logs / f"{scenario}-{name}.log"
                journal.write_text(machine.journal())
                print(f"  the journal of {name}: {journal}", flush=True)
        finally:
            for machine in machines.values():
                machine.crash()
    run("rm", "-rf", "--one-file-system", state)
    return Result(scenario, time.monotonic() - began, error)


def probe(debian: Path, scratch: Path) -> str | None:
    """Why a host cannot be booted here, if it cannot."""
    state = Path(tempfile.mkdtemp(prefix="probe-", dir=scratch))
    try:
        with Network({1}) as network:
            machine = Machine("probe", {"eth1": bridge(1)}, network.name, [state, debian], state / "probe")
            try:
                machine.start()
            finally:
                machine.crash()
    except (AssertionError, OSError, subprocess.CalledProcessError) as failure:
        return str(failure)
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--debian", type=Path, required=True, help="a Debian system's root directory")
    parser.add_argument("--binaries", type=Path, required=True, help="where aspen-node and aspen are")
    parser.add_argument("--units", type=Path, required=True, help="where the units are")
    parser.add_argument("--scratch", type=Path, required=True, help="where the hosts' disks are kept meanwhile")
    parser.add_argument("--logs", type=Path, required=True, help="where journals go if a scenario fails")
    parser.add_argument("--probe", action="store_true", help="boot one host, and run no scenario")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"of {', '.join(SCENARIOS)}; all if none")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.scenarios if name not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario is called {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if arguments.probe:
        reason = probe(arguments.debian, arguments.scratch)
        if reason is not None:
            print(f"hosts cannot be run here: {reason.splitlines()[0]}", file=sys.stderr)
        return CANNOT if reason is not None else 0
    arguments.logs.mkdir(parents=True, exist_ok=True)
    results = []
    with tempfile.TemporaryDirectory(prefix="package-", dir=arguments.scratch) as package:
        place(Path(package), arguments.binaries, arguments.units)
        for scenario in arguments.scenarios or SCENARIOS:
            results.append(play(scenario, arguments.debian, Path(package), arguments.scratch, arguments.logs))
    print(f"\n{'SCENARIO':<12} {'SECONDS':>8}  RESULT")
    for result in results:
        summary = "ok" if result.error is None else "FAIL: " + result.error.splitlines()[0][:100]
        print(f"{result.scenario:<12} {result.seconds:>8.1f}  {summary}")
    return 1 if any(result.error for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
