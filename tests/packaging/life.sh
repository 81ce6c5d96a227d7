#!/bin/bash
# The life of the package on one machine: installed in an older version, upgraded while a kill is in flight, downgraded, removed, purged.
# Runs as process 1 of a root of its own; what test_deb.py judges is in /srv/seen.
set -eu
seen=/srv/seen
mkdir -p $seen /run/systemd/system

# Everything but what apt, dpkg and the linker keep for themselves.
tree() {
  find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /srv -o -path /tmp -o -path /var/cache -o -path /var/log/apt \
    -o -path '/var/log/*.log' -o -path /var/lib/apt -o -path '/var/lib/dpkg/*-old' -o -path /var/lib/dpkg/lock\* \) -prune -o -print | sort
}
apt() { apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-confold "$@"; }
victim() { # name [what it does when it gets SIGTERM]
  python3 - "$1" "${2:-}" <<'PY' &
import pathlib, signal, sys, time
memory = b"x" * (32 << 20)
name, waits_for = sys.argv[1:]
def end(*_):
    pathlib.Path(f"/srv/{name}.terminated").touch()
    while not pathlib.Path(waits_for).exists():
        time.sleep(0.05)
    sys.exit(0)
if waits_for:
    signal.signal(signal.SIGTERM, end)
pathlib.Path(f"/srv/{name}.ready").touch()
while True:
    time.sleep(1)
PY
  pid=$!
  until [[ -e /srv/$1.ready ]]; do sleep 0.05; done
}
killed() { # step
  victim "$1"
  mrelease -o json kill "$pid" >"$seen/$1.json"
  mrelease -o json node >"$seen/$1-node.json"
}

tree >$seen/before
apt install /srv/older.deb >$seen/apt
killed installed
ls -l /etc/systemd/system/multi-user.target.wants >$seen/wants

echo 'node_name: named-by-its-administrator' >>/etc/mrelease/agent.yaml
victim flight /srv/agent-is-draining
mrelease -o json kill --grace 60s "$pid" >$seen/flight.json &
flight=$!
until [[ -e /srv/flight.terminated ]]; do sleep 0.05; done
rm -f /srv/agent-is-draining
dpkg --unpack /srv/newer.deb >>$seen/apt
[[ ! -e /srv/agent-is-draining ]] # the old agent serves until the new files are all there
killed unpacked
dpkg --force-confold --configure mrelease >>$seen/apt
wait $flight
killed upgraded
cp -r /etc/mrelease $seen/etc-upgraded
: >$seen/systemctl.upgraded
cp $seen/systemctl $seen/systemctl.upgraded
ls /usr/lib/mrelease/lib/python3/site-packages >$seen/modules-upgraded

apt install --allow-downgrades /srv/older.deb >>$seen/apt
killed downgraded
apt remove mrelease >>$seen/apt
[[ ! -e /srv/agent.pid ]]
tree >$seen/removed
apt purge mrelease >>$seen/apt
tree >$seen/after
