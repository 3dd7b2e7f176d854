#!/usr/bin/env bash
# Two "devices" and a laptop as network namespaces on one machine, everything between them over mutual TLS:
# four nodes serve a bundle, one is killed, the answer says what it lacks, the node comes back.
#
#     sudo examples/fleet_netns.sh BUNDLE IMAGE
#
# Needs Linux, root and iproute2. Leaves nothing behind but BUNDLE.
set -euo pipefail

bundle=$(realpath "${1:?usage: $0 BUNDLE IMAGE}")
image=$(realpath "${2:?usage: $0 BUNDLE IMAGE}")
edgevit=$(command -v edgevit || realpath "$(dirname "$0")/../.venv/bin/edgevit")
work=$(mktemp -d /tmp/edgevit-netns-XXXXXX)
tag=ev$$
bridge=$tag-br
declare -A address=([laptop]=10.77.0.10 [pi-1]=10.77.0.21 [pi-2]=10.77.0.22)

finish() {
    for place in "${!address[@]}"; do
        ip netns pids "$tag-$place" 2>/dev/null | xargs -r kill -9 2>/dev/null || true
        ip netns del "$tag-$place" 2>/dev/null || true
    done
    ip link del "$bridge" 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

on() { # on PLACE COMMAND…: run it in that namespace, with a home folder of its own
    local place=$1
    shift
    ip netns exec "$tag-$place" env EDGEVIT_HOME="$work/home-$place" "$@"
}

start_node() { # start_node PLACE NAME PORT
    (
        export EDGEVIT_HOME=$work/home-$1
        exec ip netns exec "$tag-$1" "$edgevit" node --name "$2" --identity "$work/$2" --memory 256MB \
            --listen "tls/${address[$1]}:$3" --connect "tls/${address[pi-1]}:7447" >"$work/$2.log" 2>&1
    ) &
    pids[$2]=$!
    disown # bash need not say that it was killed
}

echo "# three namespaces on one bridge"
ip link add "$bridge" type bridge
ip link set "$bridge" up
for place in "${!address[@]}"; do
    ip netns add "$tag-$place"
    ip link add "$tag-${place: -1}" type veth peer name eth0 netns "$tag-$place"
    ip link set "$tag-${place: -1}" master "$bridge" up
    ip -n "$tag-$place" address add "${address[$place]}/24" dev eth0
    ip -n "$tag-$place" link set eth0 up
    ip -n "$tag-$place" link set lo up
done

echo "# the laptop keeps the CA, and enrolls two nodes on each device and itself"
on laptop "$edgevit" fleet ca init >/dev/null
for name in node-1 node-2 node-3 node-4; do
    on laptop "$edgevit" enroll "$name" -o "$work/$name" >/dev/null
done
on laptop "$edgevit" enroll laptop --role operator -o "$work/laptop" >/dev/null

declare -A pids
start_node pi-1 node-1 7447
start_node pi-1 node-2 7448
start_node pi-2 node-3 7447
start_node pi-2 node-4 7448

export EDGEVIT_IDENTITY=$work/laptop
export EDGEVIT_CONNECT="tls/${address[pi-1]}:7447 tls/${address[pi-2]}:7447"
for _ in $(seq 60); do
    [ "$(on laptop "$edgevit" fleet status --json 2>/dev/null | grep -c '"alive": true')" = 4 ] && break
    sleep 0.5
done

say() { printf '\n$ edgevit %s\n' "$*"; }
run() { say "$@" && on laptop "$edgevit" "$@"; }

run fleet nodes
run deploy "$bundle"
run infer "$bundle" "$image"

printf '\n# node-2 is killed\n'
kill -9 "${pids[node-2]}"
run infer "$bundle" "$image"

printf '\n# and started again\n'
start_node pi-1 node-2 7448
for _ in $(seq 60); do
    on laptop "$edgevit" infer "$bundle" "$image" --require-all >/dev/null 2>&1 && break
    sleep 0.5
done
run infer "$bundle" "$image"
