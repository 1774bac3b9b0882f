"""One Debian host under systemd-nspawn, with the method names of the NixOS test driver."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

# The longest that a host takes to boot, on a busy machine.
BOOT_TIMEOUT_S = 60
# As in the NixOS test driver.
DEFAULT_TIMEOUT_S = 900
POLL_S = 0.1
# With --keep-unit nspawn puts a host into the group `payload` below its own control group. On version 2 of control
# groups there would be one `payload` for all hosts, which the systemd of each takes for its own, so each nspawn gets a
# scope. Its name is a new one with each start: after a crash the old one may not be gone yet. Without systemd on this
# machine there are no scopes, and on version 1 they are not needed.
SCOPE = (
    ["systemd-run", "--scope", "--quiet", "--collect", "--property=Delegate=yes"]
    if Path("/run/systemd/system").is_dir() and Path("/sys/fs/cgroup/cgroup.controllers").exists()
    else []
)
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


class CommandFailed(AssertionError):
    """A command on a host did not do what the scenario says."""


def run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True)


class Machine:
    """A host that keeps its disk across crashes, as long as the scenario runs."""

    def __init__(self, name: str, links: dict[str, str], network: str, layers: list[Path], state: Path):
        """`links` are its interfaces, each with the bridge that it is plugged into. `layers` is what is on its
        disk before the first start, and `state` a directory for what comes to it."""
        self.name = name
        self.links = links
        self.network = network
        self.layers = layers
        self.state = state
        self.errors = ""
        self.root = state / "root"
        self.process: subprocess.Popen | None = None
        self.leader: int | None = None
        for directory in ("upper", "work", "root"):
            (state / directory).mkdir(parents=True)
        self.console = state / "console"

    def has_file(self, path: str) -> bool:
        """Whether a file is on the disk of a host before its first start."""
        return any((layer / path.lstrip("/")).is_file() for layer in self.layers)

    def write_file(self, path: str, text: str, mode: int = 0o644) -> None:
        """Puts a file on the disk of a host that does not run."""
        assert self.process is None, f"{self.name} runs"
        file = self.state / "upper" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def link_file(self, path: str, target: str) -> None:
        """Puts a symbolic link on the disk of a host that does not run."""
        assert self.process is None, f"{self.name} runs"
        file = self.state / "upper" / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(target)

    def start(self) -> None:
        if self.process is not None:
            return
        lower = ":".join(str(layer) for layer in self.layers)
        options = f"lowerdir={lower},upperdir={self.state}/upper,workdir={self.state}/work"
        run("mount", "-t", "overlay", "overlay", "-o", options, self.root)
        console = self.console.open("ab")
        # Not by `ip netns exec`, which hides the control groups.
        self.process = subprocess.Popen(
            # The scope's command takes the place of systemd-run, as nspawn takes that of nsenter: it is one process.
            [
                *SCOPE,
                "nsenter",
                f"--net=/run/netns/{self.network}",
                "systemd-nspawn",
                "--quiet",
                f"--directory={self.root}",
                f"--machine={self.network}-{self.name}",
                f"--hostname={self.name}",
                "--register=no",
                "--keep-unit",
                "--boot",
                *(f"--network-veth-extra={self._outside(inside)}:{inside}" for inside in self.links),
                "--console=pipe",
            ],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
        console.close()
        self.leader = self._await_leader()
        for inside, bridge in self.links.items():
            self._in_network("ip", "link", "set", self._outside(inside), "master", bridge, "up")
        self._await_boot()

    def _outside(self, inside: str) -> str:
        """The end of a host's cable that is in a bridge. The name of an interface has 15 characters at most."""
        return f"{self.name[-10:]}-{inside}"

    def _in_network(self, *words: str) -> None:
        run("nsenter", f"--net=/run/netns/{self.network}", *words)

    def _await_leader(self) -> int:
        """The first process of the host, as this machine numbers it."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until = time.monotonic() + BOOT_TIMEOUT_S
        while time.monotonic() < until:
            if self.process.poll() is not None:
                break
            numbers = children.read_text().split()
            if numbers and Path(f"/proc/{numbers[0]}/comm").read_text().strip() == "systemd":
                return int(numbers[0])
            time.sleep(POLL_S)
        raise CommandFailed(f"{self.name} did not boot:\n{self.console.read_text(errors='replace')}")

    def _await_boot(self) -> None:
        """Until all that belongs to a boot has been started, as well or not as it may be."""
        until = time.monotonic() + BOOT_TIMEOUT_S
        while (state := self.execute("systemctl is-system-running")[1].strip()) != "running":
            if state == "degraded":
                raise CommandFailed(f"{self.name} is degraded:\n{self.execute('systemctl --failed --no-legend')[1]}")
            if time.monotonic() >= until:
                raise CommandFailed(f"{self.name} is '{state}' {BOOT_TIMEOUT_S} s after its start")
            time.sleep(POLL_S)

    def _nsenter(self) -> list[str]:
        assert self.leader is not None, f"{self.name} does not run"
        return ["nsenter", "-t", str(self.leader), *"-m -u -i -n -p -C -r -w --".split()]

    def execute(self, command: str, timeout: float | None = DEFAULT_TIMEOUT_S) -> tuple[int, str]:
        """The exit code and the standard output of a shell command on the host."""
        words = [*self._nsenter(), "env", "-i", f"PATH={PATH}", "HOME=/root", "bash", "-euo", "pipefail", "-c", command]
        try:
            done = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return 124, ""
        self.errors = done.stderr.decode(errors="replace")
        return done.returncode, done.stdout.decode(errors="replace")

    def succeed(self, *commands: str, timeout: float | None = DEFAULT_TIMEOUT_S) -> str:
        output = ""
        for command in commands:
            status, text = self.execute(command, timeout)
            if status != 0:
                raise CommandFailed(f"{self.name}: `{command}` failed with {status}:\n{text}{self.errors}")
            output += text
        return output

    def fail(self, *commands: str, timeout: float | None = DEFAULT_TIMEOUT_S) -> str:
        output = ""
        for command in commands:
            status, text = self.execute(command, timeout)
            if status == 0:
                raise CommandFailed(f"{self.name}: `{command}` succeeded, and should not:\n{text}")
            output += text
        return output

    def wait_until_succeeds(self, command: str, timeout: float = DEFAULT_TIMEOUT_S) -> str:
        until = time.monotonic() + timeout
        while True:
            status, text = self.execute(command, max(1, until - time.monotonic()))
            if status == 0:
                return text
            if time.monotonic() >= until:
                raise CommandFailed(
                    f"{self.name}: `{command}` did not succeed within {timeout} s; last:\n{text}{self.errors}"
                )
            time.sleep(POLL_S)

    def wait_until_fails(self, command: str, timeout: float = DEFAULT_TIMEOUT_S) -> str:
        return self.wait_until_succeeds(f"! ( {command} )", timeout)

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        assert user is None, "hosts have no sessions of users"
        name = shlex.quote(unit)
        until = time.monotonic() + timeout
        while True:
            state = self.execute(f"systemctl is-active {name}")[1].strip()
            if state == "active":
                return
            if state == "failed" or time.monotonic() >= until:
                journal = self.execute(f"journalctl --no-pager -n 50 -u {name}")[1]
                raise CommandFailed(f"{self.name}: unit {unit} is {state}, not active:\n{journal}")
            time.sleep(POLL_S)

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: float = DEFAULT_TIMEOUT_S) -> None:
        self.wait_until_succeeds(f"bash -c 'exec 3<>/dev/tcp/{addr}/{port}'", timeout)

    def wait_for_file(self, path: str, timeout: float = DEFAULT_TIMEOUT_S) -> None:
        self.wait_until_succeeds(f"test -e {shlex.quote(path)}", timeout)

    def systemctl(self, query: str, user: str | None = None) -> tuple[int, str]:
        assert user is None, "hosts have no sessions of users"
        return self.execute(f"systemctl {query}")

    def block(self) -> None:
        """Pulls the host's cables."""
        self._set_cables("down")

    def unblock(self) -> None:
        self._set_cables("up")

    def _set_cables(self, state: str) -> None:
        for inside in self.links:
            self._in_network("ip", "link", "set", self._outside(inside), state)

    def crash(self) -> None:
        """Ends everything on the host at once."""
        if self.process is None:
            return
        if self.leader is not None:
            os.kill(self.leader, signal.SIGKILL)
        self._ended()

    def shutdown(self) -> None:
        if self.process is None:
            return
        self.execute("systemctl poweroff")
        self._ended()

    def reboot(self) -> None:
        self.shutdown()
        self.start()

    def _ended(self) -> None:
        assert self.process is not None
        try:
            self.process.wait(BOOT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = self.leader = None
        run("umount", "--lazy", self.root)

    def journal(self) -> str:
        """All that the host has logged, for those who look for what went wrong."""
        if self.process is None:
            return self.console.read_text(errors="replace") if self.console.exists() else ""
        return self.execute("journalctl --no-pager -o short-precise")[1]
