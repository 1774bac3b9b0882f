start_all()

with subtest("three machines form one cluster with no help but each other's keys"):
    wait_until_serving(node1, node2, node3)
    assert voters(node1) == [1, 2, 3], members(node1)

with subtest("what is written on one is read on all"):
    for machine, name in [(node1, "one"), (node2, "two"), (node3, "three")]:
        put(machine, f"from/{name}", name)
    for machine in [node1, node2, node3]:
        for name in ["one", "two", "three"]:
            assert get(machine, f"from/{name}") == name
    assert content(node1) == content(node2) == content(node3)

with subtest("systemd is told how the node stands"):
    for machine in [node1, node2, node3]:
        wait(machine, "systemctl show --property=StatusText aspen | grep -qE 'leads|follows'")

with subtest("the state directory is the node's alone"):
    node1.succeed("test \"$(stat --format=%a /var/lib/private/aspen)\" = 700")
    node1.succeed("test -e /var/lib/private/aspen/raft.redb")

with subtest("logs are in the journal, with their fields"):
    node1.succeed("journalctl --unit=aspen ASPEN_NODE_ID=1 | grep -q 'the node is up'")

with subtest("snapshots are made below the hardening"):
    for id, machine in [(1, node1), (2, node2), (3, node3)]:
        machine.succeed(f"aspen node snapshot {id}")
        machine.succeed("ls /var/lib/private/aspen/snapshots | grep -q snapshot")

with subtest("the unit is as closed as it says"):
    node1.succeed("systemd-analyze security --threshold=15 aspen.service")

with subtest("a restarted node comes back to its cluster"):
    for machine in [node1, node2, node3]:
        machine.succeed("systemctl restart aspen")
        wait_until_serving(machine)
    assert get(node1, "from/three") == "three"
