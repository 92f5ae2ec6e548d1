#!/usr/bin/env bash
# A SLURM of two nodes on this one machine, for tests: its own folder, its own munge, nothing in /etc.
#
#   scripts/slurm_here.sh start DIR     # as root; installs Debian's slurm-wlm and munge where they are missing
#   export SLURM_CONF=DIR/slurm.conf    # for sbatch, squeue, ...
#   scripts/slurm_here.sh stop DIR
set -euo pipefail
what=${1:?start or stop} dir=$(realpath -m "${2:?a folder}")
daemons=(slurmd-n1 slurmd-n2 slurmctld munged)

stop() {
    for name in "${daemons[@]}"; do
        if [ -s "$dir/$name.pid" ]; then
            pid=$(cat "$dir/$name.pid")
            kill "$pid" 2>/dev/null || true
            for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
            kill -9 "$pid" 2>/dev/null || true
            rm -f "$dir/$name.pid"
        fi
    done
}

start() {
    if ! type -P slurmctld slurmd munged >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        quick=(-qq -o Acquire::Retries=0 -o Acquire::http::Timeout=20) # where there is no network, do not wait for it
        timeout 120 apt-get "${quick[@]}" update >&2
        timeout 300 apt-get "${quick[@]}" install -y --no-install-recommends slurm-wlm munge >&2
    fi
    mkdir -p "$dir"/{state,n1,n2}
    chmod 755 "$dir"
    head -c 1024 /dev/urandom >"$dir/munge.key"
    chmod 400 "$dir/munge.key"
    munged --force --key-file="$dir/munge.key" --socket="$dir/munge.sock" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    host=$(hostname -s) first=$((20000 + RANDOM % 20000))
    cat >"$dir/slurm.conf" <<CONF
ClusterName=here
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.sock,cred_expire=5
CryptoType=crypto/munge
SlurmctldPort=$first
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmdSpoolDir=$dir/%n
StateSaveLocation=$dir/state
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2,bf_interval=2
SlurmctldTimeout=30
SlurmdTimeout=30
KillWait=20
MinJobAge=300
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((first + 1)) CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$((first + 2)) CPUs=1 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=60 State=UP
CONF
    export SLURM_CONF=$dir/slurm.conf
    slurmctld
    slurmd -N n1
    slurmd -N n2
    for _ in $(seq 100); do
        [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 2 ] && return
        sleep 0.2
    done
    sinfo >&2 || true
    tail -n 20 "$dir"/*.log >&2
    stop
    echo "no SLURM came up" >&2
    exit 1
}

case $what in
start) start ;;
stop) stop ;;
*) echo "start or stop" >&2 && exit 2 ;;
esac
