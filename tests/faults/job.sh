#!/bin/bash
# A storm's command: KIND TOKEN COUNT. It writes its line into the ledger before anything else.
echo "$2 $MESHNODE_UNIT_ID" >> "${0%/*}/ledger"
print() { for ((i = 0; i < $1; i++)); do echo "$token $i"; sleep "$2"; done; }
token=$2
case $1 in
    cat) exec cat ;;
    lines) for ((i = 0; i < $3; i++)); do echo "$2 $i"; done ;;
    slow) print "$3" 0.3 ;;
    family)
        # Children of the kinds that get away from a careless parent.
        setsid sleep 1000 &
        (trap '' INT TERM; sleep 0.4) &
        print "$3" 0.05
        ;;
    fail) print "$3" 0; exit 3 ;;
esac
