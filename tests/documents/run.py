"""Runs the commands that a document shows, in order, and compares what they print with what it says.

A `console` block holds commands behind `$ `, each followed by what it prints. A command goes on over lines that end
in a backslash. Words behind `console` say more:

  terminals   each command has a terminal of its own: it is started and left running, and what the document shows is
              what it prints at first
  eventually  what a command prints comes about after a while: it is run until it does
  on NAME     on a machine of this name, with an address of its own, `/var/lib` of its own and no variables

Other blocks are not run, and those in NOT_RUN are named with the reason.

`…` stands for any text. In a command `aspenjoin…` stands for the join ticket that was printed last. Ids, keys, tickets,
times and free space are never the same twice: both sides are compared without them (MASKS), and without the width of
gaps.
"""

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machines import Machines, NoMachines

COMMAND_TIMEOUT_S = 60
TERMINAL_TIMEOUT_S = 30
EVENTUALLY_TIMEOUT_S = 30
STOP_TIMEOUT_S = 15
POLL_S = 0.05

# Blocks that show something to be done and are not run, by the words that they begin with.
NOT_RUN = {
    "sh": "it builds what is being checked, or checks all of it",
    "sh systemd": "it takes root and systemd; hosts with the same files are tried by scripts/test-hosts.sh",
    "nix": "the same module and options are tried by `nix flake check` (nixos/tests)",
    "nix-shell": "it takes Nix",
}

# What differs between two runs, and what it is compared as. In this order.
MASKS = [
    (r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID"),
    (r"\b[0-9a-f]{64}\b", "KEY"),
    (r"\baspen(node|join)[a-z0-9]+", r"aspen\1-TICKET"),
    (r"(iroh \(UDP\) ).*", r"\1ADDRESSES"),
    # Aspen's version, and no address.
    (r"(?<![\d.])\d+\.\d+\.\d+(?![\d.])", "VERSION"),
    (r"\d+ bytes free, \d+ kept", "N bytes free, N kept"),
    (r"\b\d+ m?s ago", "AGO"),
    (r"\b\d+\.\d+ ms", "N ms"),
    # Log positions: members' addresses may be noted once more or less.
    (r"((?:\d+\.){3}\d+:\d+ +(?:\d+\.){3}\d+:\d+) +\d+", r"\1 LOG"),
    (r"(serving) +\d+ +\d+ +\d+", r"\1 TERM APPLIED LAG"),
    (r"in term \d+|, term \d+", "TERM"),
    (r"[ \t]+", " "),
]


class Command:
    def __init__(self, line, text, words):
        self.line, self.text, self.output = line, text, ""
        self.in_terminal, self.eventually = "terminals" in words, "eventually" in words
        self.machine = words[words.index("on") + 1] if "on" in words else None


def commands(document):
    """The commands of a document, with the line that each stands in and what it shall print; and the blocks that are
    not run, each with its line and the reason."""
    found, left_out, words = [], [], None
    continued = False
    for number, line in enumerate(document.splitlines(), 1):
        if line.startswith("```"):
            # At the end of a block there are no words.
            words = line[3:].split() if words is None else None
            if words and " ".join(words) in NOT_RUN:
                left_out.append((number, NOT_RUN[" ".join(words)]))
            continued = False
        elif not words or words[0] != "console":
            continue
        elif continued:
            found[-1].text += "\n" + line
            continued = line.endswith("\\")
        elif line.startswith("$ "):
            found.append(Command(number, line[2:], words))
            continued = line.endswith("\\")
        elif not found:
            raise SystemExit(f"line {number}: a console block begins with a command behind '$ '")
        else:
            found[-1].output += line + "\n"
    return found, left_out


def masked(text):
    for pattern, name in MASKS:
        text = re.sub(pattern, name, text)
    return "\n".join(line.strip() for line in text.strip().splitlines())


def matches(documented, printed, is_whole=True):
    """Whether a text is what was documented; if not whole, whether it begins so."""
    parts = [re.escape(part) for part in masked(documented).split("…")]
    pattern = re.compile(".*".join(parts), re.DOTALL)
    return bool((pattern.fullmatch if is_whole else pattern.match)(masked(printed)))


class Shell:
    """One shell for a document, so that what is exported stays, in a directory of its own; or one for each machine
    of a document."""

    def __init__(self, directory, environment, enter=()):
        self.directory = directory
        self.terminals = []
        self.environment = environment
        self.enter = list(enter)
        directory.mkdir(exist_ok=True)
        self.state = directory / ".state"
        self.state.write_text("")

    def script(self, text):
        # What a command exports is there for the next one.
        return f"source {self.state}\n{text}\ncode=$?\nexport -p >{self.state}\nexit $code\n"

    def run(self, command):
        deadline = time.monotonic() + EVENTUALLY_TIMEOUT_S
        while True:
            good, printed = self.run_once(command)
            if good or not command.eventually or time.monotonic() >= deadline:
                return good, printed
            time.sleep(POLL_S)

    def run_once(self, command):
        work = self.directory / "work"
        work.mkdir(exist_ok=True)
        try:
            done = subprocess.run(
                [*self.enter, "bash", "-c", self.script(command.text)],
                cwd=work, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=COMMAND_TIMEOUT_S,
            )
        except subprocess.TimeoutExpired:
            return False, f"(nothing within {COMMAND_TIMEOUT_S} s)"
        printed = done.stdout.decode(errors="replace")
        return matches(command.output, printed), printed

    def open_terminal(self, command):
        work = self.directory / "work"
        work.mkdir(exist_ok=True)
        name = self.directory / f"terminal-{len(self.terminals) + 1}"
        out, err = name.with_suffix(".out"), name.with_suffix(".err")
        with out.open("wb") as out_file, err.open("wb") as err_file:
            process = subprocess.Popen(
                [*self.enter, "bash", "-c", f"source {self.state}\nexec {command.text}"],
                cwd=work, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=out_file, stderr=err_file, start_new_session=True,
            )
        self.terminals.append(process)
        deadline = time.monotonic() + TERMINAL_TIMEOUT_S
        while time.monotonic() < deadline:
            printed = out.read_text(errors="replace")
            if printed and matches(command.output, printed, is_whole=False):
                return True, printed
            if process.poll() is not None:
                break
            time.sleep(POLL_S)
        return False, out.read_text(errors="replace") + err.read_text(errors="replace")

    def close(self):
        """Stops what still runs, newest first."""
        for process in reversed(self.terminals):
            if process.poll() is not None:
                continue
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


class Document:
    """The shells that a document's commands run in."""

    def __init__(self, directory, environment, has_own_network):
        self.directory, self.environment = directory, environment
        self.has_own_network = has_own_network
        self.own = Shell(directory, environment)
        self.machines, self.of_machines = Machines(), {}
        self.ticket = None

    def shell_of(self, command):
        if command.machine is None:
            return self.own
        if not self.has_own_network:
            raise NoMachines("no network of their own can be made for them here")
        if command.machine not in self.of_machines:
            enter = self.machines.named(command.machine).enter()
            self.of_machines[command.machine] = Shell(self.directory / command.machine, self.environment, enter)
        return self.of_machines[command.machine]

    def run(self, command):
        shell = self.shell_of(command)
        if "aspenjoin…" in command.text and self.ticket:
            command.text = command.text.replace("aspenjoin…", self.ticket)
        good, printed = (shell.open_terminal if command.in_terminal else shell.run)(command)
        for ticket in re.findall(r"\baspenjoin[a-z0-9]{20,}", printed):
            self.ticket = ticket
        return good, printed

    def close(self):
        for shell in (*self.of_machines.values(), self.own):
            shell.close()
        self.machines.close()


def check(path, environment, has_own_network):
    wanted, left_out = commands(path.read_text())
    if not wanted:
        print(f"FAIL  {path}: it has no console block", flush=True)
        return False
    no_machines = None
    ran = 0
    with tempfile.TemporaryDirectory(prefix="aspen-documents-") as directory:
        document = Document(Path(directory), environment, has_own_network)
        try:
            for command in wanted:
                if command.machine is not None and no_machines:
                    continue
                try:
                    good, printed = document.run(command)
                except NoMachines as reason:
                    no_machines = str(reason)
                    left_out.append((command.line, f"it needs several machines, and {reason}"))
                    continue
                ran += 1
                if not good:
                    print(f"FAIL  {path}, line {command.line}:\n$ {command.text}")
                    print(f"documented:\n{command.output.rstrip()}\nprinted:\n{printed.rstrip()}", flush=True)
                    return False
        finally:
            document.close()
    print(f"ok    {path}: {ran} commands", flush=True)
    for line, reason in sorted(left_out):
        print(f"skip  {path}, line {line} is not run: {reason}", flush=True)
    return True


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binaries", type=Path, required=True, help="directory with aspen-node and aspen")
    arguments.add_argument("--own-network", action="store_true", help="this is in a network namespace of its own")
    arguments.add_argument("documents", type=Path, nargs="+")
    given = arguments.parse_args()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASPEN_")}
    # In front of it cargo, which would build.
    environment["PATH"] = f"{Path(__file__).resolve().parent}:{given.binaries.resolve()}:{environment['PATH']}"
    # All are run, so that one run tells all that is wrong.
    results = [check(path, environment, given.own_network) for path in given.documents]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
