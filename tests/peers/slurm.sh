#!/usr/bin/env bash
# Starts a Slurm of its own on this machine, from Debian's slurm-wlm package: one controller, one node, no accounting, no munge, everything
# under one folder and on free ports.  Prints the line to put before a command that shall use it.
#
#   ./slurm.sh start DIR [MaxArraySize]     then: SLURM_CONF=DIR/slurm.conf sbatch …
#   ./slurm.sh stop DIR
set -euo pipefail
dir=$(realpath -m "${2:?usage: slurm.sh start|stop DIR [MaxArraySize]}")
case "${1:-}" in
start)
  command -v slurmctld >/dev/null && command -v slurmd >/dev/null || { echo "error: slurm is missing: apt-get install slurm-wlm" >&2; exit 1; }
  mkdir -p "$dir/state" "$dir/spool"
  free() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
  host=$(hostname -s)
  cat >"$dir/slurm.conf" <<CONF
ClusterName=tiltmeter
SlurmctldHost=$host(127.0.0.1)
SlurmUser=$(id -un)
SlurmdUser=$(id -un)
SlurmctldPort=$(free)
SlurmdPort=$(free)
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
MaxArraySize=${3:-1001}
MaxJobCount=20000
MinJobAge=10
KillWait=2
SchedulerParameters=sched_interval=1,sched_min_interval=0,batch_sched_delay=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=2000 State=UNKNOWN
PartitionName=main Nodes=$host Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
CONF
  export SLURM_CONF=$dir/slurm.conf
  slurmctld -c
  slurmd -c
  for _ in $(seq 100); do
    sinfo --noheader --format=%T 2>/dev/null | grep -q idle && { echo "SLURM_CONF=$SLURM_CONF"; exit 0; }
    sleep 0.2
  done
  echo "error: the node did not become idle" >&2
  tail -5 "$dir/slurmctld.log" "$dir/slurmd.log" >&2
  exit 1
  ;;
stop)
  for daemon in slurmd slurmctld; do
    [ -f "$dir/$daemon.pid" ] && kill "$(cat "$dir/$daemon.pid")" 2>/dev/null || true
  done
  ;;
*) echo "usage: slurm.sh start|stop DIR [MaxArraySize]" >&2; exit 2 ;;
esac
