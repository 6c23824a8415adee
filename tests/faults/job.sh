#!/bin/bash
# A storm's command: KIND TOKEN COUNT. It writes a line into the ledger before anything else, and
# another one when nothing is left to do but to exit. With BRINGS_FILES it makes a file as well.
kind=$1 token=$2 count=$3 ledger=${0%/*}/ledger
note() { echo "$EPOCHREALTIME $1 $token $MESHNODE_UNIT_DIR" >> "$ledger"; }
print() { for ((i = 0; i < count; i++)); do echo "$token $i" || exit 1; sleep "$1"; done; }
# stdout has what is printed, and no complaint that there is no room for it.
exec 2> /dev/null
note start
[ -z "$BRINGS_FILES" ] || echo "$token" > "$token.out"
case $kind in
    cat) cat || exit ;;
    lines) for ((i = 0; i < count; i++)); do echo "$token $i" || exit 1; done ;;
    slow) print 0.3 ;;
    family)
        # Children of the kinds that get away from a careless parent.
        setsid sleep 1000 &
        (trap '' INT TERM; sleep 0.4) &
        print 0.05
        ;;
    fail) print 0 ;;
esac
note end
[ "$kind" != fail ] || exit 3
