# Runs one command once on a host, and records how it ended. Arguments: the unit's directory, the
# name of this attempt, the mark of the unit's processes, seconds that the command may run (0: any),
# seconds from SIGTERM to SIGKILL, the user's own umask. The command is the function job, which
# stands above.
#
# What must be written when the disk is full is written before: the rest are names of files, which
# change by a rename.
dir=$1 attempt=$2 mark=$3 timeout=$4 grace=$5 usual=$6
group= stopping= code=

# Nobody connected is told of more than this one line.
answer() {
    echo "$1"
    exec >/dev/null 2>&1
}

cd "$dir/$attempt" && umask 077 && mkfifo end && : >stdout && : >code && : >why && : >job &&
    echo "$$ $(birth $$)" >supervisor && mkdir -p work && : >"of.$attempt" ||
    { answer failed; exit 1; }

# Who waits for the end has this pipe open: its other end closes with this process, however it ends.
exec 9<>end

# later SECONDS SIGNAL: send this process a signal then. Whatever becomes of it, the pipe tells the
# one who waits, so nobody is left waiting.
later() {
    (
        # In this order: to open it waits for one who writes.
        exec 8<end 9>&-
        timeout "$1" cat <&8 || kill -"$2" $$
    ) &
}

# stop WHY: end the command. The first reason stands.
stop() {
    again=1
    [ -z "$stopping" ] || return 0
    stopping=1
    mv why "why.$1"
    signal_tree TERM
    later "$grace" USR1
}

trap 'again=1' HUP
trap 'stop cancel' TERM
trap 'stop timeout' ALRM
trap 'again=1; signal_tree KILL' USR1

# The claim. Of several attempts the first one that takes the name runs the command: a directory
# that is not empty is not replaced, and one that is there takes the others in.
mv "$dir/$attempt" "$dir/run" 2>/dev/null
[ -e "$dir/run/of.$attempt" ] && cd "$dir/run" || { answer taken; exit 0; }

if [ -z "$stopping" ]; then
    (
        exec 9>&-
        MESHNODE_SSH_JOB=$mark
        export MESHNODE_SSH_JOB
        umask "$usual" && cd work && job
    ) <stdin >>stdout 2>&1 &
    group=$!
    mv job "job.$group.$(birth "$group")"
    answer "started $group"
    # A signal from before that has found nobody.
    [ -z "$stopping" ] || signal_tree TERM
    [ "$timeout" -eq 0 ] || later "$timeout" ALRM
    again=1
    while [ -n "$again" ]; do
        again=
        wait "$group"
        status=$?
        # A shell forgets a child that it has told of.
        [ "$status" -eq 127 ] && [ -n "$code" ] || code=$status
    done
else
    answer taken
fi
end_rest "$grace"
mv code "exit.${code:-143}"
