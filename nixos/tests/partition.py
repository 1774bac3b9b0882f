machines_by_id = {1: node1, 2: node2, 3: node3}

start_all()
wait_until_serving(node1, node2, node3)
put(node1, "before", "all")
for machine in machines_by_id.values():
    wait_until_applied(machine, "before", "all")

minority = leader_id(node1)
cut_off = machines_by_id.pop(minority)
majority = list(machines_by_id.values())

with subtest("the majority goes on without the leader that is cut off"):
    cut_off.block()
    for number, machine in enumerate(majority):
        put(machine, f"majority/{number}", "kept")
    assert leader_id(majority[0]) != minority
    for machine in majority:
        assert get(machine, "majority/0") == get(machine, "majority/1") == "kept"

with subtest("the minority refuses reads and writes, and says so"):
    cut_off.fail("aspen --timeout 5 put minority refused")
    cut_off.fail("aspen --timeout 5 get before")
    cut_off.fail("aspen --timeout 5 status")

with subtest("what is asked for as stale is read in the minority as well"):
    assert cut_off.succeed("aspen get --stale before").strip() == "all"
    cut_off.fail("aspen get --stale majority/0")

with subtest("after healing all have what the majority wrote, and nothing that was refused"):
    cut_off.unblock()
    wait_until_applied(cut_off, "majority/1", "kept")
    wait_until_serving(cut_off)
    put(cut_off, "after", "healing")
    for machine in [cut_off, *majority]:
        assert get(machine, "before") == "all"
        assert get(machine, "after") == "healing"
        machine.fail("aspen --timeout 60 get minority")
    assert content(cut_off) == content(majority[0]) == content(majority[1])
    assert voters(cut_off) == [1, 2, 3]
