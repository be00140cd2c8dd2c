#!/usr/bin/env bash
# The gate's routes by curl: examples/curl.sh BASE_URL
#
# Shows each call with its answer, and ends with code 1 if one is not what is expected. It fits a gate that was started
# with --demo and the default limits:
#
#     cargo run --release -- --demo &
#     examples/curl.sh http://127.0.0.1:8000
set -euo pipefail

base=${1:?usage: curl.sh BASE_URL}
base=${base%/}
json='Content-Type: application/json'
short='"options":{"num_predict":12}'
answer=$(mktemp)
trap 'rm -f "$answer"' EXIT

# The arguments as one would type them.
typed() {
    local word
    for word in "$@"; do
        case $word in
            *[!a-zA-Z0-9_./:%=-]*) printf " '%s'" "$word" ;;
            *) printf ' %s' "$word" ;;
        esac
    done
}

# call STATUS TEXT CURL-ARGUMENTS…: shows a call and insists on the status and on a text in the answer.
call() {
    local status=$1 text=$2 got
    shift 2
    printf '$ curl%s\n' "$(typed "$@")"
    got=$(curl --silent --show-error --no-buffer --max-time 60 --output "$answer" --write-out '%{http_code}' "$@")
    cut -c1-240 "$answer"
    printf '(status %s)\n\n' "$got"
    if [ "$got" != "$status" ] || ! grep --quiet --fixed-strings -- "$text" "$answer"; then
        echo "expected: status $status, and in the answer: $text" >&2
        exit 1
    fi
}

echo '# One question, one answer.'
call 200 '{"response":"' -X POST "$base/ollama_generate/" -H "$json" \
    -d '{"prompt":"Why is the sky blue?",'"$short"'}'
call 200 '{"response":"' "$base/ollama_generate/Why%20is%20the%20sky%20blue%3F"

echo '# A body that does not fit the schema names every fault, and is not counted by the limit.'
call 422 "Format must be either 'json' or 'text'" -X POST "$base/ollama_generate/" -H "$json" \
    -d '{"prompt":"What is JSON?","format":"","options":""}'

echo "# Ollama's own API: which models there are."
call 200 '"models":[' "$base/api/tags"
model=$(sed -n 's/^{"models":\[{"name":"\([^"]*\)".*/\1/p' "$answer")

echo '# A stream: a line for each token, and a last one with "done":true.'
call 200 '"done":true' "$base/api/generate" -d '{"model":"'"$model"'","prompt":"Hello",'"$short"'}'
[ "$(wc -l <"$answer")" -gt 1 ] || { echo 'expected: several lines' >&2; exit 1; }
call 200 '"message":{"role":"assistant"' "$base/api/chat" \
    -d '{"model":"'"$model"'","messages":[{"role":"user","content":"Hello"}],'"$short"'}'

echo '# The same, whole.'
call 200 '"done":true' "$base/api/chat" \
    -d '{"model":"'"$model"'","messages":[{"role":"user","content":"Hello"}],"stream":false,'"$short"'}'

echo '# What is refused, and how.'
call 404 "model 'no-such-model' not found" "$base/api/generate" -d '{"model":"no-such-model","prompt":"Hello"}'
call 403 '{"error":"' "$base/api/pull" -d '{"model":"llama3.2"}'
call 404 '{"detail":"Not Found"}' "$base/nothing/here"

echo "# The gate's own pages."
call 200 'ok' "$base/healthz"
call 200 'ok' "$base/readyz"
call 200 '"openapi":"3.1.0"' "$base/openapi.json"

echo '# The limit: 10 a minute for each client unless configured otherwise.'
for _ in $(seq 100); do
    status=$(curl --silent --output "$answer" --write-out '%{http_code}' --max-time 60 \
        -X POST "$base/ollama_generate/" -H "$json" -d '{"prompt":"Hi","options":{"num_predict":1}}')
    [ "$status" = 200 ] || break
done
cat "$answer"
printf '\n(status %s)\n\n' "$status"
[ "$status" = 429 ] && grep --quiet --fixed-strings '{"error":"Rate limit exceeded: ' "$answer" \
    || { echo 'expected: status 429 and which limit it was' >&2; exit 1; }

echo 'All answers were as expected.'
