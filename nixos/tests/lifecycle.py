start_all()
wait_until_serving(node1, node2, node3)
put(node1, "before", "joining")

with subtest("a new machine joins with a ticket, catches up, and gets a vote"):
    ticket = node2.succeed("aspen ticket new --ttl 10m --uses 1").split()[0]
    joiner.succeed("mkdir -p /run/credstore")
    joiner.succeed(f"umask 077; echo {ticket} > /run/credstore/aspen.join-ticket")
    joiner.succeed("systemctl start aspen")
    wait_until_serving(joiner)
    wait_until_applied(joiner, "before", "joining")
    [joined] = set(members(node1)) - {1, 2, 3}
    wait(node1, f"aspen --json member list | tr -d ' \\n' | grep -q '\"node_id\":{joined},\"role\":\"follower\"'")
    put(joiner, "from", "joiner")
    assert get(node3, "from") == "joiner"

with subtest("a used ticket lets nobody else in"):
    replacement.succeed("mkdir -p /run/credstore")
    replacement.succeed(f"umask 077; echo {ticket} > /run/credstore/aspen.join-ticket")
    replacement.systemctl("start aspen")
    wait(replacement, "journalctl --unit=aspen --output=cat | grep -q 'the ticket is used up'")
    replacement.succeed("systemctl stop aspen")
    replacement.succeed("rm -r /run/credstore/aspen.join-ticket /var/lib/private/aspen")

with subtest("a machine takes another one's place"):
    replacement.succeed("systemctl start aspen")
    wait(replacement, "aspen ticket")
    own_ticket = replacement.succeed("aspen ticket").strip()
    node1.succeed(f"aspen --timeout 120 member replace 3 --with {own_ticket}")
    assert voters(node1) == sorted([1, 2, 9, joined])
    wait_until_applied(replacement, "from", "joiner")
    wait_until_serving(replacement)

with subtest("the one that was replaced is cut off, says so, and serves nothing"):
    wait(node3, "journalctl --unit=aspen --output=cat | grep -q 'was removed from its cluster'")
    node3.fail("aspen --timeout 5 put removed node")
    node3.fail("aspen --timeout 5 get before")
    node3.fail("aspen --timeout 5 status")

with subtest("a member is removed, and the others go on"):
    node1.succeed(f"aspen --timeout 120 member remove {joined}")
    assert voters(node2) == [1, 2, 9]
    put(replacement, "after", "removal")
    assert get(node1, "after") == get(node2, "after") == "removal"
    joiner.fail("aspen --timeout 5 get after")
