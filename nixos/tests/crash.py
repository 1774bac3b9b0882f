machines_by_id = {1: node1, 2: node2, 3: node3}

start_all()
wait_until_serving(node1, node2, node3)
put(node1, "before", "crash")

with subtest("two go on when the machine of the leader crashes"):
    leader = leader_id(node1)
    crashed = machines_by_id.pop(leader)
    others = list(machines_by_id.values())
    crashed.crash()
    for number in range(20):
        put(others[number % 2], f"meanwhile/{number}", number)
    assert get(others[1], "meanwhile/0") == "0"

with subtest("the machine comes back, and its node catches up by itself"):
    crashed.start()
    wait_until_serving(crashed)
    wait_until_applied(crashed, "meanwhile/19", "19")
    assert content(crashed) == content(others[0])

with subtest("nothing that was acknowledged is lost when all machines crash at once"):
    put(crashed, "last", "words")
    acknowledged = content(others[0])
    for machine in [crashed, *others]:
        machine.crash()
    start_all()
    wait_until_serving(node1, node2, node3)
    assert get(node1, "last") == "words"
    for machine in [node1, node2, node3]:
        assert content(machine) == acknowledged

with subtest("they go on as one cluster"):
    put(node2, "after", "all")
    assert get(node3, "after") == "all"
    assert voters(node1) == [1, 2, 3]
