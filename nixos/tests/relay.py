start_all()

with subtest("nodes that know no more of each other than keys and a relay become one cluster"):
    wait_until_serving(node1, node2, node3)
    assert voters(node1) == [1, 2, 3]

with subtest("two that have no path to each other speak over the relay of the third"):
    for machine in [node2, node3]:
        wait(machine, "aspen --timeout 10 status | grep -q 'relay,'")

with subtest("what is written on one is read on all"):
    for machine, name in [(node1, "one"), (node2, "two"), (node3, "three")]:
        put(machine, f"over/{name}", name)
    for machine in [node1, node2, node3]:
        for name in ["one", "two", "three"]:
            assert get(machine, f"over/{name}") == name

with subtest("they find together again after the relay was away"):
    node1.succeed("systemctl stop aspen")
    node2.fail("aspen --timeout 5 put alone refused")
    node1.succeed("systemctl start aspen")
    for machine in [node1, node2, node3]:
        wait(machine, "aspen --timeout 30 put again yes")
    assert get(node2, "again") == "yes"
