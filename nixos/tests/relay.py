start_all()
relay.wait_for_unit("relay.service")

with subtest("three machines without a path to each other become one cluster"):
    wait_until_serving(node1, node2, node3)
    assert voters(node1) == [1, 2, 3]

with subtest("they reach each other over the relay"):
    status = node1.succeed("aspen --timeout 60 status")
    assert "relay," in status and "direct" not in status, status

with subtest("what is written on one is read on all"):
    for machine, name in [(node1, "one"), (node2, "two"), (node3, "three")]:
        put(machine, f"over/{name}", name)
    for machine in [node1, node2, node3]:
        for name in ["one", "two", "three"]:
            assert get(machine, f"over/{name}") == name

with subtest("they find together again after the relay was away"):
    relay.succeed("systemctl stop relay")
    node1.fail("aspen --timeout 5 put alone refused")
    relay.succeed("systemctl start relay")
    for machine in [node1, node2, node3]:
        wait(machine, "aspen --timeout 30 put again yes")
    assert get(node2, "again") == "yes"
