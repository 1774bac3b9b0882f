"""Runs the commands that a document shows, in order, and compares what they print with what it says.

A `console` block holds commands behind `$ `, each followed by what it prints. A command goes on over lines that end
in a backslash. In a block `console terminals` each command has a terminal of its own: it is started and left
running, and what the document shows is what it prints at first. Other blocks are not run.

`…` stands for any text. Ids, keys, tickets, times and free space are never the same twice: both sides are
compared without them (MASKS), and without the width of gaps.
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

COMMAND_TIMEOUT_S = 60
TERMINAL_TIMEOUT_S = 30
STOP_TIMEOUT_S = 15
POLL_S = 0.05

# Blocks whose commands are run.
KINDS = ("console", "console terminals")

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
    def __init__(self, line, text, in_terminal):
        self.line, self.text, self.in_terminal, self.output = line, text, in_terminal, ""


def commands(document):
    """The commands of a document, with the line that each stands in and what it shall print."""
    found, kind = [], None
    continued = False
    for number, line in enumerate(document.splitlines(), 1):
        if line.startswith("```"):
            info = line[3:].strip()
            kind = info if kind is None and info else None
            continued = False
        elif kind not in KINDS:
            continue
        elif continued:
            found[-1].text += "\n" + line
            continued = line.endswith("\\")
        elif line.startswith("$ "):
            found.append(Command(number, line[2:], kind == "console terminals"))
            continued = line.endswith("\\")
        elif not found:
            raise SystemExit(f"line {number}: a console block begins with a command behind '$ '")
        else:
            found[-1].output += line + "\n"
    return found


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
    """One shell for a document, so that what is exported stays, in a directory of its own."""

    def __init__(self, directory, environment):
        self.directory = directory
        self.terminals = []
        self.environment = environment
        self.state = directory / ".state"
        self.state.write_text("")

    def script(self, text):
        # What a command exports is there for the next one.
        return f"source {self.state}\n{text}\ncode=$?\nexport -p >{self.state}\nexit $code\n"

    def run(self, command):
        work = self.directory / "work"
        work.mkdir(exist_ok=True)
        try:
            done = subprocess.run(
                ["bash", "-c", self.script(command.text)],
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
                ["bash", "-c", f"source {self.state}\nexec {command.text}"],
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


def check(path, environment):
    wanted = commands(path.read_text())
    if not wanted:
        print(f"FAIL  {path}: it has no console block", flush=True)
        return False
    with tempfile.TemporaryDirectory(prefix="aspen-documents-") as directory:
        shell = Shell(Path(directory), environment)
        try:
            for command in wanted:
                good, printed = (shell.open_terminal if command.in_terminal else shell.run)(command)
                if not good:
                    print(f"FAIL  {path}, line {command.line}:\n$ {command.text}")
                    print(f"documented:\n{command.output.rstrip()}\nprinted:\n{printed.rstrip()}", flush=True)
                    return False
        finally:
            shell.close()
    print(f"ok    {path}: {len(wanted)} commands", flush=True)
    return True


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--binaries", type=Path, required=True, help="directory with aspen-node and aspen")
    arguments.add_argument("documents", type=Path, nargs="+")
    given = arguments.parse_args()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ASPEN_")}
    environment["PATH"] = f"{given.binaries.resolve()}:{environment['PATH']}"
    # All are run, so that one run tells all that is wrong.
    results = [check(path, environment) for path in given.documents]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
