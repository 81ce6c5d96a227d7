# shellcheck shell=sh disable=SC2034 # settings are used by who sources it
# Sourced by the programs beside it that slurmd and slurmstepd start as root, with hardly a variable set and no PATH.
# Nothing in here ends the program: an Epilog that fails drains its node.
PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin:/opt/mrelease/bin
export PATH
umask 077

# settings FILE: read what an administrator has set. It is not run as a program, so a mistake in it costs one setting and no node.
settings() {
  MRELEASE=mrelease
  AGENT=unix:///run/mrelease/agent.sock
  DEADLINE=20
  DRAIN_WHEN_HELD=no
  ONLY_CGROUPS=no
  LOG=syslog
  [ -r "$1" ] || return 0
  while IFS='=' read -r key value || [ -n "$key" ]; do
    case $key in
      MRELEASE) MRELEASE=$value ;;
      AGENT) AGENT=$value ;;
      DEADLINE) is_number "$value" && [ "$value" -ge 2 ] && DEADLINE=$value ;;
      DRAIN_WHEN_HELD) DRAIN_WHEN_HELD=$value ;;
      ONLY_CGROUPS) ONLY_CGROUPS=$value ;;
      LOG) LOG=$value ;;
    esac
  done <"$1"
}

# say TEXT: one line into the log.
say() {
  case $LOG in
    /*) printf '%s mrelease %s[%s]: %s\n' "$(date '+%Y-%m-%dT%H:%M:%S%z')" "$HOOK" "$$" "$1" >>"$LOG" ;;
    *) logger --tag "mrelease-slurm[$$]" --priority daemon.notice -- "$HOOK: $1" ;;
  esac 2>/dev/null || :
}

# is_number TEXT: digits, and not too many of them for the shell to count with.
is_number() {
  case $1 in
    '' | *[!0-9]* | ???????????*) return 1 ;;
  esac
}

# has_process JOB: whether anything but slurmstepd is left in the job's cgroups, v1 or v2. Starts no process.
has_process() {
  for base in /sys/fs/cgroup/slurm*/uid_*/job_"$1" /sys/fs/cgroup/*/slurm*/uid_*/job_"$1" /sys/fs/cgroup/*.slice/*slurmstepd.scope/job_"$1"; do
    for group in "$base" "$base"/* "$base"/*/* "$base"/*/*/*; do
      [ -r "$group/cgroup.procs" ] || continue
      while read -r pid; do
        comm=
        { read -r comm <"/proc/$pid/comm"; } 2>/dev/null
        case $comm in '' | slurmstepd) ;; *) return 0 ;; esac
      done <"$group/cgroup.procs"
    done
  done
  return 1
}

# leave_step: slurmstepd starts its hook in the step's own cgroup, where all are killed: who asks for that must not be among them.
leave_step() {
  while IFS=: read -r _ controllers path; do
    case $path in
      /slurm*/job_* | */*slurmstepd.scope/*) ;;
      *) continue ;;
    esac
    # v2 has no controllers here, and its root may always have processes; v1 has a folder for each hierarchy.
    { echo $$ >"/sys/fs/cgroup/${controllers:+${controllers#name=}/}cgroup.procs"; } 2>/dev/null || say "still in $path"
  done </proc/self/cgroup
}

# give_back QUERY: ask the agent of this node for the processes of a job or step, and log what became of them.
# Returns 0: all memory is back, or nothing was there; 3: memory is still held; 4: refused; 5: no agent, no answer in time, or no mrelease.
give_back() {
  # The agent gives up before its caller does, so that the caller hears what is held.
  said=$(MRELEASE_ADDRESSES=local MRELEASE_AGENT=$AGENT timeout --kill-after=2 "$DEADLINE" "$MRELEASE" kill \
    --timeout "$((DEADLINE - DEADLINE / 4))s" --reason "Slurm $HOOK" "target://localhost/slurm?$1" 2>&1)
  code=$?
  case $code in
    0) say "$1: memory is back: $(tail_of "$said")" ;;
    5)
      say "$1: nothing is left"
      code=0
      ;;
    3) say "$1: MEMORY IS STILL HELD: $(tail_of "$said")" ;;
    4) say "$1: refused: $(tail_of "$said")" ;;
    124 | 137)
      say "$1: no answer within $DEADLINE s"
      code=5
      ;;
    *)
      say "$1: not asked (status $code): $(tail_of "$said")"
      code=5
      ;;
  esac
  return "$code"
}

# tail_of TEXT: what fits into one line of a log.
tail_of() {
  printf '%s' "$1" | tr -cs '[:print:]' ' ' | cut -c 1-600
}
