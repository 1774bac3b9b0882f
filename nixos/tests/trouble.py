# What goes wrong on machines. The node says in a sentence what it is, and comes back by itself or by what the
# sentence asks for; nothing that was acknowledged is lost.
DROP_IN = "/run/systemd/system/aspen.service.d/trouble.conf"


def set_unit(machine, *lines):
    """Changes the service until the next call. Nothing changes in a running one."""
    machine.succeed(f"mkdir -p {DROP_IN.rsplit('/', 1)[0]}; rm -f {DROP_IN}")
    if lines:
        text = "\\n".join(["[Service]", *lines])
        machine.succeed(f"printf '{text}\\n' > {DROP_IN}")
    machine.succeed("systemctl daemon-reload")


def said_since_start(machine, text):
    """Waits until the service's latest processes have said something."""
    wait(machine, f"journalctl --unit=aspen --output=cat --since=@$(cat /tmp/began) | grep -qF '{text}'")


def begin(machine):
    machine.succeed("date +%s > /tmp/began")


def restarts(machine):
    return int(machine.succeed("systemctl show --property=NRestarts --value aspen"))


start_all()
wait_until_serving(node)
put(node, "kept", "all-along")

with subtest("a process that hangs is started again by the watchdog"):
    before = restarts(node)
    node.succeed("systemctl kill --signal=STOP aspen")
    wait(node, f"test $(systemctl show --property=NRestarts --value aspen) -gt {before}")
    wait_until_serving(node)
    assert get(node, "kept") == "all-along"

with subtest("a second node on the same data is refused, and says who has it"):
    pid = node.succeed("systemctl show --property=MainPID --value aspen").strip()
    refused = node.fail(
        "aspen-node --data-dir /var/lib/private/aspen --http-addr 127.0.0.1:0 --iroh-addr 127.0.0.1:0 2>&1"
    )
    assert f"process {pid}" in refused, refused
    node.succeed("systemctl start aspen")
    assert node.succeed("systemctl show --property=MainPID --value aspen").strip() == pid

with subtest("a port that another service has is named, and taken once it is free"):
    node.succeed("systemctl stop aspen")
    node.succeed("printf '[Socket]\\nListenStream=127.0.0.1:4600\\n' > /run/systemd/system/squatter.socket")
    node.succeed("printf '[Service]\\nExecStart=/bin/sh -c true\\n' > /run/systemd/system/squatter.service")
    node.succeed("systemctl daemon-reload", "systemctl start squatter.socket")
    begin(node)
    node.systemctl("start --no-block aspen")
    said_since_start(node, "127.0.0.1:4600")
    node.succeed("systemctl stop squatter.socket")
    wait_until_serving(node)

with subtest("a data directory of another node is refused"):
    command = node.succeed("command -v aspen-node").strip()
    set_unit(node, "ExecStart=", f"ExecStart={command} --config /etc/aspen/aspen.toml --node-id 7")
    begin(node)
    node.systemctl("restart --no-block aspen")
    # By the new process: the old one, as it ends, speaks of node 1 as well.
    said_since_start(node, "belongs to node 1")
    node.fail("aspen --timeout 2 get kept")
    set_unit(node)
    node.succeed("systemctl reset-failed aspen; systemctl restart aspen")
    wait_until_serving(node)
    assert get(node, "kept") == "all-along"

with subtest("root repairs, and the service goes on with what that made"):
    node.succeed("systemctl stop aspen", "rm /var/lib/private/aspen/state.redb")
    node.succeed("aspen-node repair --data-dir /var/lib/private/aspen")
    node.succeed("systemctl start aspen")
    wait_until_serving(node)
    assert get(node, "kept") == "all-along"

with subtest("a credential that is empty is refused before anything opens"):
    node.succeed("install -m 600 /dev/null /run/empty-token")
    set_unit(node, "LoadCredential=http-token:/run/empty-token")
    begin(node)
    node.systemctl("restart --no-block aspen")
    said_since_start(node, "empty")
    set_unit(node)
    node.succeed("systemctl reset-failed aspen; systemctl restart aspen")
    wait_until_serving(node)

with subtest("with a clock that is a year ahead it serves all the same"):
    library = node.succeed("cat /etc/faketime-library").strip()
    set_unit(node, f"Environment=LD_PRELOAD={library} FAKETIME=+365d FAKETIME_DONT_FAKE_MONOTONIC=1")
    node.succeed("systemctl restart aspen")
    wait_until_serving(node)
    put(node, "from", "the-future")
    set_unit(node)
    node.succeed("systemctl restart aspen")
    wait_until_serving(node)
    assert get(node, "from") == "the-future"
    assert get(node, "kept") == "all-along"

with subtest("a full disk refuses writes in a sentence, and takes them again once there is room"):
    node.succeed("systemctl stop aspen")
    # A disk of its own, with what was on the other.
    node.succeed("mkdir /tmp/data; cp -a /var/lib/private/aspen/. /tmp/data/")
    node.succeed("mount -t tmpfs -o size=160M,mode=0700 tmpfs /var/lib/private/aspen")
    node.succeed("cp -a /tmp/data/. /var/lib/private/aspen/")
    node.succeed("systemctl start aspen")
    wait_until_serving(node)
    node.succeed("dd if=/dev/zero of=/var/lib/private/aspen/filler bs=1M 2>/dev/null || true")
    wait(node, "(aspen put more data 2>&1 || true) | grep -q 'disk'")
    assert get(node, "kept") == "all-along"
    node.succeed("rm /var/lib/private/aspen/filler")
    wait(node, "aspen put more data")

with subtest("nothing is lost when the machine goes down in the middle of a snapshot"):
    node.succeed("systemctl stop aspen; umount /var/lib/private/aspen; systemctl start aspen")
    wait_until_serving(node)
    node.succeed("aspen bench --clients 16 --duration 3 --warmup 1 --mix put=100 --value-size 4096 --keys 20000")
    # All of it, as a number.
    everything = "aspen --json --timeout 60 range | sha256sum"
    before = node.succeed(everything)
    node.succeed("(aspen node snapshot 1 &) </dev/null >/dev/null 2>&1")
    node.crash()
    node.start()
    wait_until_serving(node)
    assert node.succeed(everything) == before
    node.succeed("aspen node snapshot 1")
