# What both scripts know of processes. Sets no variable but found, seen and those named below.
# group is the process group of the command, mark what stands in the environment of all that it
# started.

# A new process group, so that all of it can be signaled. Coreutils has no setsid, but its timeout
# makes a group as well.
if command -v setsid >/dev/null 2>&1; then detach=setsid
elif command -v timeout >/dev/null 2>&1; then detach='timeout 0'
else detach=
fi

# birth PID: print when a process was started, nothing if there is none. PIDs are used again.
birth() {
    if read -r seen 2>/dev/null </proc/"$1"/stat; then
        # The name may have blanks and brackets; behind the last bracket all is plain.
        set -- ${seen##*) }
        echo "${20}"
    elif [ ! -e /proc/self/stat ]; then
        ps -o lstart= -p "$1" 2>/dev/null | tr -d ' '
    fi
}

# lives PID BIRTH: whether it is still that process.
lives() {
    [ -n "$2" ] && [ "$(birth "$1")" = "$2" ]
}

# marked: print the /proc files of all processes of the command, also of those that left its group.
marked() {
    grep -lsF -- "MESHNODE_SSH_JOB=$mark" /proc/[0-9]*/environ 2>/dev/null
}

# signal_tree NAME: signal all processes of the command.
signal_tree() {
    # Itself, too: it may not have its group yet.
    [ -z "$group" ] || kill -"$1" -"$group" "$group" 2>/dev/null
    for found in $(marked); do
        found=${found#/proc/}
        kill -"$1" "${found%/environ}" 2>/dev/null
    done
}

# left: whether any of them is left. Where /proc shows them, the dead that nobody has reaped do not
# count.
left() {
    if [ -e /proc/self/environ ]; then [ -n "$(marked)" ]
    else [ -n "$group" ] && kill -0 -"$group" 2>/dev/null
    fi
}

# end_rest SECONDS: end what is left: SIGTERM, and after so many seconds SIGKILL.
end_rest() {
    left || return 0
    signal_tree TERM
    seen=$(($1 * 10))
    while left; do
        [ "$seen" -gt 0 ] || { signal_tree KILL; break; }
        sleep 0.1 2>/dev/null || { sleep 1; seen=$((seen - 9)); }
        seen=$((seen - 1))
    done
}
