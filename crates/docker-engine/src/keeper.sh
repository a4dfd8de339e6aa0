# Starts and stops one engine as told, line by line; the end of its input, also by the death of the test, ends all.
folder=$1 data=$2
shift 2
pid= killed=
start() {
    # A killed engine's containerd dies with it, and may stay a zombie, which the next engine would wait for.
    rm -f "$folder/docker.sock" "$folder/docker.pid" "$folder/exec/containerd/containerd.pid"
    killed=
    dockerd "$@" >>"$folder/dockerd.log" 2>&1 </dev/null &
    pid=$!
}
stop() {
    [ -n "$pid" ] && kill -TERM "$pid" 2>/dev/null
    [ -n "$pid" ] && wait "$pid"
    pid=
}
trap '' INT HUP TERM PIPE
while read -r order; do
    case $order in
    start) start "$@" ;;
    stop) stop ;;
    kill) kill -KILL "$pid" && wait "$pid" 2>/dev/null; pid= killed=yes ;;
    esac
    echo done
done
# One that was killed left its containers: started again, it ends them.
if [ -n "$killed" ]; then
    start "$@"
    n=0
    while [ ! -S "$folder/docker.sock" ] && [ $n -lt 100 ]; do sleep 0.1; n=$((n + 1)); done
fi
stop
for mount in "$folder"/exec/netns/*; do umount "$mount" 2>/dev/null; done
umount "$data" 2>/dev/null
rm -rf "$data" 2>/dev/null
rm -rf "$folder" 2>/dev/null
true
