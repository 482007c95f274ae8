# Read by bash before the blocks of a document. A server that a reader starts in a second terminal
# runs in the background, and the next block begins when it answers.
set -eo pipefail
declare -A started

# Usage: in_background NAME URL COMMAND…  Ends an earlier one of this name first.
in_background() {
    local name=$1 url=$2
    shift 2
    ended "$name"
    set -m # a process group of its own, which Ctrl-C reaches as a whole
    "$@" >>"$session/$name.log" 2>&1 &
    set +m
    started[$name]=$!
    local tries=0
    until command curl --silent --fail --output /dev/null "$url"; do
        if ! kill -0 "${started[$name]}" 2>/dev/null || [ $((tries += 1)) -gt 400 ]; then
            echo "$* does not answer at $url:"
            tail -n 20 "$session/$name.log"
            return 1
        fi
        sleep 0.1
    done
}

# Usage: ended NAME  Ends a background command as Ctrl-C does..
ended() {
    [ -n "${started[$1]:-}" ] || return 0
    local process=${started[$1]} tries=0
    kill -INT -- "-$process" 2>/dev/null || true
    while kill -0 "$process" 2>/dev/null && [ $((tries += 1)) -lt 100 ]; do sleep 0.1; done
    kill -KILL -- "-$process" 2>/dev/null || true
    wait "$process" 2>/dev/null || true
    unset "started[$1]"
}

tactful() {
    case $1 in
        serve)
            local name=serve url=$TACTFUL_URL
            if [[ "$*" =~ --port\ ([0-9]+) ]]; then # a second server
                name=serve-${BASH_REMATCH[1]} url=http://127.0.0.1:${BASH_REMATCH[1]}
            fi
            in_background "$name" "$url/readyz" command tactful "$@"
            ;;
        worker)
            local name=worker
            if [[ "$*" == *"--data beside"* ]]; then # a second worker
                name=worker-beside
                local -x TACTFUL_WORKER__METRICS_PORT=$BESIDE_PORT
            fi
            in_background "$name" "http://127.0.0.1:$TACTFUL_WORKER__METRICS_PORT/metrics" \
                command tactful "$@"
            ;;
        sink) command tactful "$@" --idle-exit 6 ;; # else it ends with Ctrl-C
        train) command tactful "$@" --lists 500 ;; # a minute of training becomes seconds
        dashboard) in_background dashboard "$DASHBOARD_URL/_stcore/health" command tactful "$@" \
            --port "${DASHBOARD_URL##*:}" ;;
        privacy)
            # The quick audit takes half a minute, the whole one several: the quick one is kept.
            case "$*" in
                "privacy audit --json"*) set -- privacy audit --help ;;
                "privacy audit --keep") set -- privacy audit --quick --keep ;;
            esac
            command tactful "$@"
            ;;
        *) command tactful "$@" ;;
    esac
}

# MLflow is not ours and takes ten seconds of computing to start: its database has to be there.
mlflow() {
    local database=${!#}
    [ "$1" = ui ] && [ -f "${database##*sqlite:///}" ]
}

# Usage: webhook  Starts a receiver of what a document sends to a webhook.
webhook() { in_background webhook "$WEBHOOK_URL" python "$documents/webhook.py" "${WEBHOOK_URL##*:}"; }

python() {
    case "$*" in
        "-m http.server"*)
            in_background pages "$PAGES_URL" python3 -m http.server "${PAGES_URL##*:}" \
                --bind 127.0.0.1
            ;;
        *) command python "$@" ;;
    esac
}

# Usage: page_shows TEXT  Opens the page of this folder in a browser and looks for a text.
page_shows() {
    "$CHROMIUM" --headless --no-sandbox --disable-gpu --user-data-dir="$session/chromium" \
        --virtual-time-budget=10000 --dump-dom "$PAGES_URL" | grep -F -- "$1"
}

# The bundle of the browser client is built once for all tests.
scripts/web() { cp "$WEB/tactful.global.js" "$2"; }

# Usage: … --json | field NAME  Prints a field of a JSON object.
field() { command python -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# A request that the server refuses fails the test.
curl() { command curl --silent --show-error --fail-with-body "$@"; }

finish() {
    local name
    for name in "${!started[@]}"; do ended "$name"; done
}
trap finish EXIT
trap 'exit 143' TERM

# Puts a data directory with two months of history and a champion here, and its input files.
shop_with_history() { cp -r "$SHOP"/{tactful-data,*.ndjson} . && cp "$SHOP"/mlflow.db . 2>/dev/null || true; }

# The demo, the tests and the benchmarks take minutes, and CI runs them elsewhere. `--quick` replays a
# few households; of the others the name is checked, and the options of a benchmark.
scripts/demo() {
    case "$*" in
        --quick) python "$documents/small_demo.py" 20 demo --port "${TACTFUL_URL##*:}" --quick ;;
        *) [ -x "$documents/../../scripts/demo" ] ;;
    esac
}
scripts/test() { [ -x "$documents/../../scripts/test" ]; }
scripts/environment() { [ -x "$documents/../../scripts/environment" ]; }
scripts/bench() {
    local folder=$documents/../../benchmarks word
    for word in "${@:2}"; do
        case $word in
            --*) grep -rqF --include='*.py' -e "\"$word\"" "$folder/$1" "$folder"/*.py ;;
        esac
    done
    [ -f "$folder/$1/run.py" ]
}

# No index of packages is needed for a test: an extra has to exist.
pip() { python "$documents/known_extras.py" "$@"; }
