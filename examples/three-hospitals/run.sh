#!/usr/bin/env bash
# Three hospitals, and a fourth: a federation from nothing to a segmented scan. As root:
#
#     bash examples/three-hospitals/run.sh [FOLDER]
#
# Network namespaces stand in for hospitals, 50 ms apart (wan.py); nobody can connect to hospital-c.
# The scans are simulated. README.rst says what happens. FOLDER (default: a temporary one) keeps
# what each hospital has on its disk.

set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
readonly here root=$here/../..
[ -x "$root/.venv/bin/bt" ] && PATH=$(cd "$root" && pwd)/.venv/bin:$PATH
[ "$(id -u)" = 0 ] || { echo "network namespaces need root"; exit 1; }
[ -c /dev/net/tun ] || { echo "no /dev/net/tun here"; exit 1; }
command -v ip > /dev/null || { echo "ip (iproute2) is needed"; exit 1; }

work=${1:-$(mktemp -d)}
mkdir -p "$work" && cd "$work" && work=$PWD
export BT_CACHE=$work/cache OMP_NUM_THREADS=1 COLUMNS=100
readonly hospitals="a b c" limit_s=150  # for anything that is waited for

step() { printf '\n=== %s (after %d s)\n' "$1" "$SECONDS"; }
# at LETTER COMMAND...: in that hospital, in its folder
at() {
    local letter=$1
    shift
    (cd "$work/hospital-$letter" && exec ip netns exec "bt3-$letter" "$@")
}
# until WHAT COMMAND...: wait for the command to succeed
until_() {
    local what=$1 end=$((SECONDS + limit_s))
    shift
    until "$@" > /dev/null 2>&1; do
        ((SECONDS < end)) || { echo "waited $limit_s s in vain: $what"; exit 1; }
        sleep 0.3
    done
    echo "$what"
}
events() { echo "$work/hospital-$1/runs/hospital-$1/events.jsonl"; }
# seen LETTER TIMES PATTERN: whether its log has so many such events
seen() { [ "$(grep -c "$3" "$(events "$1")")" -ge "$2" ]; }

declare -A pid
finish() {
    local status=$?
    for each in "${pid[@]}"; do kill "$each" 2> /dev/null || true; done
    wait
    for letter in a b c d; do
        ip netns pids "bt3-$letter" 2> /dev/null | xargs --no-run-if-empty kill 2> /dev/null || true
        ip netns del "bt3-$letter" 2> /dev/null || true
    done
    ((status)) && echo "FAILED (exit code $status); what there is: $work"
    exit "$status"
}
trap finish EXIT
trap 'exit 130' INT TERM

# start LETTER ARGUMENTS...: bt, in the background; the process itself gets what signals are sent
start() {
    (cd "$work/hospital-$1" && exec ip netns exec "bt3-$1" bt "${@:2}" > peer.log 2>&1) &
    pid[$1]=$!
}
# enroll LETTER: what each hospital does by itself
enroll() {
    local letter=$1 address=()
    [ "$letter" = c ] || address=(--address "tcp://10.77.0.$2:7301")
    mkdir -p "hospital-$letter"
    bt data demo "hospital-$letter/scans" --subjects 2 --seed "$2" > /dev/null
    bt init --name "hospital-$letter" --folder "hospital-$letter" "${address[@]}" \
        --data "hospital-$letter/scans" --filters 8 --rounds 1000 > /dev/null < /dev/null
    # so that minutes are enough: every fourth slice, one epoch
    sed -i -e 's/^# skip_bad.*/slice_step = 4\nmargin_mm = 0/' -e 's/^epochs = .*/epochs = 1/' \
        -e 's/^# batch_size.*/precision = "float32"\ndevice = "cpu"/' \
        "hospital-$letter/federation.toml"
}

step "Four networks, 50 ms from one to another and back; hospital-c has no open port"
for letter in a b c d; do ip netns add "bt3-$letter"; done
python3 "$here/wan.py" --delay-ms 25 --closed bt3-c bt3-a=10.77.0.1 bt3-b=10.77.0.2 \
    bt3-c=10.77.0.3 bt3-d=10.77.0.4 > wan.log 2>&1 &
pid[wan]=$!
until_ "the network carries packets" grep -q ready wan.log

step "Each hospital: scans (simulated), bt init: settings, keys, its entry for the roster"
number=0
for letter in $hospitals d; do
    number=$((number + 1))
    enroll "$letter" "$number" &
    enrolling[$number]=$!
done
for each in "${enrolling[@]}"; do wait "$each"; done
echo "--- hospital-a/federation.toml" && sed -n '/^\[site\]/,/^$/p' hospital-a/federation.toml
echo "--- hospital-a/hospital-a.toml"
cat hospital-a/hospital-a.toml

step "The entries are exchanged; each joins them into its roster, and they compare fingerprints"
for letter in $hospitals; do
    at "$letter" bt roster make roster.toml "$work"/hospital-{a,b,c}/hospital-?.toml \
        > "hospital-$letter/roster.log"
    echo "hospital-$letter, by telephone: $(grep fingerprint "hospital-$letter/roster.log")"
done

step "bt check --wait at all three, at the same time"
for letter in $hospitals; do
    at "$letter" bt check --wait 120 > "hospital-$letter/check.log" 2>&1 &
    pid[$letter]=$!
done
green=yes
for letter in $hospitals; do
    wait "${pid[$letter]}" || green=no
    unset "pid[$letter]"
    echo "--- hospital-$letter" && cat "hospital-$letter/check.log"
done
[ "$green" = yes ] || { echo "not all is green"; exit 1; }

step "They train: bt peer --config federation.toml"
for letter in $hospitals; do start "$letter" peer --config federation.toml; done
until_ "hospital-a has merged the model of hospital-c, which nobody can connect to" \
    seen a 1 '"event": "merge", "from": "hospital-c"'
until_ "hospital-c has merged that of hospital-b" seen c 1 '"event": "merge", "from": "hospital-b"'
echo "A check does not disturb a running federation:"
at a bt check | sed -n '/ port \| peer /,$p'

step "A fourth hospital is taken into the rosters, and joins"
for letter in $hospitals d; do
    (cd "hospital-$letter" && bt roster make new.toml "$work"/hospital-?/hospital-?.toml > /dev/null &&
        mv new.toml roster.toml)
done
for letter in $hospitals; do kill -HUP "${pid[$letter]}"; done
for letter in $hospitals; do
    until_ "hospital-$letter has read its new roster" \
        grep -q "roster: hospital-d is new" "hospital-$letter/peer.log"
done
start d join
until_ "hospital-d has merged its first models" seen d 1 '"event": "merge"'
until_ "hospital-d has trained" seen d 1 '"event": "fit"'
grep -v loss hospital-d/peer.log
until_ "hospital-a has merged the model of hospital-d" \
    seen a 1 '"event": "merge", "from": "hospital-d"'

step "hospital-b leaves (SIGTERM): it says so, and nobody waits for it"
kill "${pid[b]}" && { wait "${pid[b]}" || true; } && unset 'pid[b]'
until_ "hospital-a knows" seen a 1 '"event": "gone", "peer": "hospital-b", "reason": "left"'

step "From hospital-d: the aggregated model of whoever answers now, while they train on"
at d bt aggregate -o aggregated.safetensors
for letter in a c d; do kill "${pid[$letter]}"; done
for letter in a c d; do wait "${pid[$letter]}" || true; done

step "hospital-d segments a scan that nobody has trained on"
bt data demo hospital-d/patient --subjects 1 --seed 99 > /dev/null
at d bt predict aggregated.safetensors "$work"/hospital-d/patient/sub-*/anat/*_T1w.nii.gz \
    -o segmented_dseg.nii.gz
at d bt eval aggregated.safetensors --data patient

step "Done"
echo "What each hospital has on its disk: $work"
