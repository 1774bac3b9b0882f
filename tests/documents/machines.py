"""Machines for documents that need several: network namespaces on one switch, each with a /var/lib of its own.

No more than a user namespace is needed, which scripts/check-docs.sh runs in.
"""

import subprocess
from pathlib import Path

# Addresses for documents, of which the first machine that a document names has the first.
NETWORK = "192.0.2"
SWITCH = "switch"
STOP_TIMEOUT_S = 15


class NoMachines(Exception):
    """Machines cannot be made here; the text says why."""


def _run(*words):
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode != 0:
        raise NoMachines(f"`{' '.join(words)}` fails: {done.stderr.strip() or done.returncode}")


class Machine:
    """One machine: its namespaces live as long as a process that does nothing."""

    def __init__(self, number):
        self.address = f"{NETWORK}.{number}"
        # It says when it is in its namespaces, and ends with its input.
        self.holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "sh", "-c", "echo ready; exec cat"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        if self.holder.stdout.readline() != "ready\n":
            reason = self.holder.stderr.read().strip()
            self.close()
            raise NoMachines(f"no namespaces can be made: {reason}")
        try:
            port = f"port{number}"
            _run("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(self.holder.pid))
            _run("ip", "link", "set", port, "master", SWITCH, "up")
            _run(*self.enter(), "mount", "-t", "tmpfs", "tmpfs", "/var/lib")
            _run(*self.enter(), "ip", "link", "set", "lo", "up")
            _run(*self.enter(), "ip", "address", "add", f"{self.address}/24", "dev", "eth0")
            _run(*self.enter(), "ip", "link", "set", "eth0", "up")
        except NoMachines:
            self.close()
            raise

    def enter(self):
        """The words before a command that is to run on it."""
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--mount", f"--wd={Path.cwd()}", "--"]

    def close(self):
        self.holder.stdin.close()
        self.holder.wait(STOP_TIMEOUT_S)


class Machines:
    """The machines of a document, made as they are named."""

    def __init__(self):
        self.by_name = {}

    def named(self, name):
        if not self.by_name:
            _run("ip", "link", "add", SWITCH, "type", "bridge", "forward_delay", "0")
            _run("ip", "link", "set", SWITCH, "up")
        if name not in self.by_name:
            self.by_name[name] = Machine(len(self.by_name) + 1)
        return self.by_name[name]

    def close(self):
        for machine in self.by_name.values():
            machine.close()
        if self.by_name:
            subprocess.run(["ip", "link", "delete", SWITCH], check=False, capture_output=True)
