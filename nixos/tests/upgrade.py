# While one node is restarted, another machine writes without a pause. Each write must be acknowledged, as
# there is a quorum at all times, and each must be there afterwards.
LOAD = """
number=0
until [ -e /tmp/load-stop ]; do
  number=$((number + 1))
  aspen --timeout 60 put load/$1/$number $number || { echo "write $number failed" >> /tmp/load-failed; break; }
  echo $number > /tmp/load-written
done
touch /tmp/load-ended
"""


def start_load(machine, name):
    machine.succeed("rm -f /tmp/load-*")
    machine.succeed(f"sh -c '{LOAD}' load {name} </dev/null >/tmp/load-log 2>&1 &")
    wait(machine, "test -e /tmp/load-written")


def stop_load(machine):
    machine.succeed("touch /tmp/load-stop")
    wait(machine, "test -e /tmp/load-ended")
    machine.fail("cat /tmp/load-failed")
    return int(machine.succeed("cat /tmp/load-written"))


start_all()
wait_until_serving(node1, node2, node3)
written = {}

for restarted, writer, name in [
    (node1, node2, "first"),
    (node2, node3, "second"),
    (node3, node1, "third"),
]:
    with subtest(f"writes go on while the {name} node is restarted"):
        start_load(writer, name)
        before = int(writer.succeed("cat /tmp/load-written"))
        restarted.succeed("systemctl restart aspen")
        wait_until_serving(restarted)
        wait(writer, f"test $(cat /tmp/load-written) -gt {before}")
        written[name] = stop_load(writer)
        # It has what was written without it before the next one is restarted.
        wait_until_applied(restarted, f"load/{name}/{written[name]}", written[name])

with subtest("every write is on every node"):
    for machine in [node1, node2, node3]:
        for name, last in written.items():
            found = machine.succeed(f"aspen --timeout 60 range --prefix load/{name}/ --keys-only")
            assert found.count(f"load/{name}/") == last, f"{last} were written: {found}"
    assert content(node1) == content(node2) == content(node3)

with subtest("each node was stopped in order, and none was killed"):
    for machine in [node1, node2, node3]:
        machine.succeed("journalctl --unit=aspen --output=cat | grep -q 'the node has stopped'")
        machine.fail("journalctl --unit=aspen --output=cat | grep -E 'Failed with result|SIGKILL|SIGABRT'")
