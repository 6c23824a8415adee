echo $1 >> /tmp/r14/sfRhM/log; cmp DEPS/dep /tmp/r14/sfRhM/dep || echo $1 >> /tmp/r14/sfRhM/bad; mkdir -p out; cp DEPS/dep out/f$1; sleep 0.2
