DIRECTORY = "/var/lib/aspen-backup"

start_all()
wait_until_serving(source, fresh)
for number in range(10):
    put(source, f"key/{number}", number)

with subtest("the timer makes backups"):
    source.succeed("systemctl is-active aspen-backup.timer")
    source.succeed(f"rm -f {DIRECTORY}/*")
    wait(source, f"ls {DIRECTORY}/aspen-*.backup")

with subtest("each of them is whole, and nobody else can read it"):
    source.succeed(f"for file in {DIRECTORY}/*.backup; do aspen backup --check $file || exit 1; done")
    source.succeed(f"test \"$(stat --format=%a {DIRECTORY})\" = 700")
    source.succeed(f"test -z \"$(find {DIRECTORY} -type f -perm /077)\"")

with subtest("no more are kept than shall be"):
    first = source.succeed(f"ls {DIRECTORY} | head -n 1").strip()
    wait(source, f"! test -e {DIRECTORY}/{first}")
    source.succeed("systemctl stop aspen-backup.timer")
    wait(source, "! systemctl is-active aspen-backup.service")
    assert len(source.succeed(f"ls {DIRECTORY}").split()) == 2

with subtest("a fresh machine has all of it after a restore"):
    expected = json.loads(content(source))
    latest = source.succeed(f"ls {DIRECTORY} | tail -n 1").strip()
    copied = source.succeed(f"base64 --wrap=0 {DIRECTORY}/{latest}")
    fresh.succeed(f"echo {copied} | base64 --decode > /tmp/restored.backup")
    fresh.succeed("aspen --timeout 60 restore /tmp/restored.backup")
    for number in range(10):
        assert get(fresh, f"key/{number}") == str(number)
    restored = json.loads(content(fresh))
    assert [(kv["key"], kv["value"]) for kv in restored] == [(kv["key"], kv["value"]) for kv in expected]

with subtest("the restored cluster takes writes"):
    put(fresh, "after", "restore")
    assert get(fresh, "after") == "restore"
