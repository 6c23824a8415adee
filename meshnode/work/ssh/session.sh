# One session of a node on a host. Arguments: what begins each line of ours, the directory of all
# units, the unit's name in it, the mark of the unit's processes. It reads requests from stdin, a
# line each, and answers on stderr; stdout has the command's output, once that is asked for. It ends
# with stdin.
token=$1 base=$2 name=$3 mark=$4
group= tailer= waiter= made=
case $base in
    /*) ;;
    *) base=${HOME:-$PWD}/$base ;;
esac
dir=$base/$name
usual=$(umask)
umask 077
# Not ignored: the command would inherit that.
trap : PIPE

say() {
    printf '%s %s\n' "$token" "$*" >&2
}

# A stop was cut off between its steps.
if [ ! -d "$dir.gone/run" ]; then rm -rf "$dir.gone"
elif [ ! -e "$dir" ]; then mv "$dir.gone" "$dir"
fi

look() {
    read -r boot 2>/dev/null </proc/sys/kernel/random/boot_id || boot=-
    if [ -d "$dir/run" ]; then
        for found in "$dir/run/job."*; do found=${found##*/job.}; done
        say state claimed "$boot" "${found%%.*}"
    elif [ -d "$dir" ]; then say state fresh "$boot"
    else say state absent "$boot"
    fi
}

# make [tar]: make the unit's directory, if what brings its files there and back is here.
make() {
    if [ -n "$1" ] && ! command -v "$1" >/dev/null; then
        echo "there is no $1, which brings files there and back: install it" >&2
        say failed
        exit 1
    fi
    mkdir -p "$base" && { mkdir "$dir" 2>/dev/null || [ -d "$dir" ] || mkdir "$dir"; } &&
        mkdir -p "$dir/$token/work" && made=1 && say made || { say failed; exit 1; }
}

# part NAME SIZE: take so many bytes of stdin.
part() {
    if [ "$1" = deps ]; then
        # With o, files are the user's own, also where that is root.
        mkdir "$dir/$token/work/DEPS" &&
            head -c "$2" | ( cd "$dir/$token/work/DEPS" && tar -xof - && cat >/dev/null )
    else
        head -c "$2" >"$dir/$token/$1" && [ "$(wc -c <"$dir/$token/$1")" -eq "$2" ]
    fi && { [ "$1" != work/script ] || chmod 700 "$dir/$token/$1"; } && say got || { say failed; exit 1; }
}

# go TIMEOUT GRACE: start the command, unless it was started before.
go() {
    # Read to the end, which comes with the supervisor's answer: nothing else may have it open. With
    # setsid it is safe from signals to the session.
    if [ "$detach" = setsid ]; then apart=setsid; else apart=; fi
    found=$($apart sh "$dir/$token/supervisor.sh" "$dir" "$token" "$mark" "$1" "$2" "$usual" </dev/null &)
    # Without an answer it may have been killed, before or after its claim.
    if [ -z "$found" ]; then
        if [ -d "$dir/run" ]; then found=taken; else found=failed; fi
    fi
    say "$found"
}

# Tell how the command ended, as soon as it has: nothing has to look for that again and again.
tell_end() {
    if [ -p "$dir/run/end" ]; then
        # First for both: to open a pipe for reading waits for somebody who writes.
        exec 7<>"$dir/run/end" 8<"$dir/run/end" 7>&-
        read -r seen <&8
    fi
    for code in "$dir/run/exit."*; do code=${code##*/exit.}; done
    for why in "$dir/run/why."*; do why=${why##*/why.}; done
    say end "$code" "$why" "$(wc -c <"$dir/run/stdout")"
}

# follow POSITION: send the output from that byte on (from 1), as it comes, and tell the end.
follow() {
    printf '\n%s\n' "$token"
    tail -c "+$1" -f "$dir/run/stdout" </dev/null &
    tailer=$!
    tell_end </dev/null &
    waiter=$!
}

# given MARK SIZE: take so many bytes of stdin, and begin what stands between marks on stdout.
given() {
    unfollow
    words=$(head -c "$2")
    printf '\n%s\n' "$1"
}

# list MARK SIZE: print what there is in the directories whose names come, quoted: a letter for its
# kind, its name and a NUL for each, and a NUL behind each directory. Links are not followed.
list() {
    given "$1" "$2"
    seen=$1
    eval "set -- $words"
    for place do
        (
            # A name may be any bytes.
            LC_ALL=C
            export LC_ALL
            cd "$dir/run/work/$place" 2>/dev/null && entries
        )
        printf '\0'
    done
    [ -d "$dir/run/work" ]
    printf '\n%s %s\n' "$seen" "$?"
}

entries() {
    for found in * .[!.]* ..?*; do
        if [ -h "$found" ]; then kind=l
        elif [ -d "$found" ]; then
            kind=d
            [ -r "$found" ] && [ -x "$found" ] || kind=u
        elif [ -f "$found" ]; then
            kind=f
            [ -r "$found" ] || kind=u
        elif [ -e "$found" ]; then kind=o
        else continue
        fi
        printf '%s%s\0' "$kind" "$found"
    done
}

# bring MARK SIZE: print a tar of the files whose names come, quoted.
bring() {
    given "$1" "$2"
    # Else one takes a backslash for more than it is, and another leaves out what is empty in a file.
    case $(tar --version 2>/dev/null) in
        *"GNU tar"*) how=--no-unquote ;;
        *bsdtar*) how=--format=gnutar ;;
        *) how= ;;
    esac
    (
        eval "set -- $words"
        unset TAR_OPTIONS
        cd "$dir/run/work" && exec tar $how -cf - "$@"
    ) </dev/null 2>/dev/null
    printf '\n%s %s\n' "$1" "$?"
}

supervised() {
    read -r supervisor born 2>/dev/null <"$dir/run/supervisor" && lives "$supervisor" "$born"
}

# rest SECONDS: end what nobody supervises any more.
rest() {
    for found in "$dir/run/job."*; do found=${found##*/job.}; done
    if lives "${found%%.*}" "${found#*.}"; then group=${found%%.*}; fi
    end_rest "$1"
}

# stop GRACE: end the command, or see that it is never started. Answers once nothing of it is left.
stop() {
    if [ ! -d "$dir/run" ]; then
        # One step, whatever a start does meanwhile; it needs no room on the disk.
        mv "$dir" "$dir.gone" 2>/dev/null
        if [ ! -d "$dir.gone/run" ]; then
            rm -rf "$dir.gone"
            say stopped never
            return
        fi
        mv "$dir.gone" "$dir"
    fi
    if supervised; then
        kill -TERM "$supervisor"
        # Its end is the end of this pipe. One that does not end is killed.
        exec 7<>"$dir/run/end" 8<"$dir/run/end" 7>&-
        timeout "$(($1 + 10))" cat <&8 || kill -KILL "$supervisor"
        exec 8<&-
    fi
    rest "$1"
    say stopped
}

unfollow() {
    [ -n "$tailer" ] || return 0
    kill "$tailer" "$waiter" 2>/dev/null
    # What it prints comes before what is printed from now on.
    wait "$tailer" 2>/dev/null
    tailer=
}

remove() {
    unfollow
    rm -rf "$dir" "$dir.gone" 2>/dev/null ||
        { chmod -R u+rwx "$dir" && rm -rf "$dir" "$dir.gone"; }
    made=
    if [ -e "$dir" ]; then say failed; else say removed; fi
}

finish() {
    # Nothing ends it halfway.
    trap "" HUP TERM
    unfollow
    if [ -n "$made" ]; then
        # Unless the attempt has become the run.
        rm -rf "${dir:?}/$token"
        [ -d "$dir/run" ] || rmdir "$dir" 2>/dev/null
    fi
}
trap finish EXIT
trap exit HUP TERM

look
while read -r word first second; do
    case $word in
        make | go | follow | part | stop | list | bring | remove) "$word" "$first" "$second" ;;
    esac
done
