# What the scenarios share. It is put in front of each of them, on NixOS and elsewhere. Scenarios know their
# machines by name, and use start_all and subtest, and of a machine succeed, fail, wait_until_succeeds,
# wait_for_unit, systemctl, block, unblock, crash and start. On a machine they use systemctl, aspen,
# journalctl, and what every system has.
import json

# Seconds in which a cluster has a leader again, with much to spare for slow machines.
PATIENCE = 120


def wait(machine, command):
    machine.wait_until_succeeds(command, timeout=PATIENCE)


def put(machine, key, value):
    machine.succeed(f"aspen --timeout 60 put {key} {value}")


def get(machine, key):
    return machine.succeed(f"aspen --timeout 60 get {key}").strip()


def wait_until_applied(machine, key, value):
    """Waits until the machine's own node has the value, whatever the others have."""
    wait(machine, f"test \"$(aspen get --stale {key})\" = '{value}'")


def members(machine):
    """The members by their ids, as the machine's node knows them."""
    listed = json.loads(machine.succeed("aspen --json --timeout 60 member list"))
    return {member["node_id"]: member for member in listed}


def voters(machine):
    return sorted(id for id, member in members(machine).items() if member["role"] != "learner")


def leader_id(machine):
    wait(machine, "aspen --json member list | grep -q '\"leader\"'")
    [leader] = [id for id, member in members(machine).items() if member["role"] == "leader"]
    return leader


def content(machine):
    """All keys with their values and revisions."""
    return machine.succeed("aspen --json --timeout 60 range")


def wait_until_serving(*machines):
    for machine in machines:
        machine.wait_for_unit("aspen.service")
    for machine in machines:
        wait(machine, "aspen --timeout 10 status")
