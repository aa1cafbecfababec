#!/usr/bin/env bash
# Four ways to choose a strategy, and a stream. Prints the answers' bills; the last request prints its events.
set -euo pipefail
url=${STROP_URL:-http://127.0.0.1:8000}
headers=(-H 'content-type: application/json')
if [[ -n ${STROP_API_KEY:-} ]]; then headers+=(-H "authorization: Bearer $STROP_API_KEY"); fi
model=$(curl -sS "${headers[@]}" "$url/v1/models" | grep -o '"id":"[^"]*"' | head -n 1 | cut -d '"' -f 4)
messages='[{"role":"user","content":"What is 17 * 23?"}]'

ask() { # path, body, further curl arguments
  curl -sS --fail-with-body "${headers[@]}" "${@:3}" "$url$1" -d "$2"
  echo
}

echo '# 1. in the body: a strategy with its knobs and a budget'
ask /v1/chat/completions "{\"model\":\"$model\",\"messages\":$messages,\"strop\":{\"strategy\":\"best_of_n\",\"n\":4,\"budget\":{\"tokens\":4000}}}"

echo '# 2. in the model name: a preset'
ask /v1/chat/completions "{\"model\":\"$model:vote-8\",\"messages\":$messages}"

echo '# 3. in the path'
ask /v1/strategies/self_consistency/chat/completions "{\"model\":\"$model\",\"messages\":$messages}"

echo '# 4. in a header, for clients whose body cannot be changed'
ask /v1/chat/completions "{\"model\":\"$model\",\"messages\":$messages}" -H 'x-strop-strategy: best_of_n'

echo '# a stream: progress as reasoning_content, then the words of the answer, the bill on the last chunk'
ask /v1/chat/completions "{\"model\":\"$model\",\"messages\":$messages,\"stream\":true,\"strop\":{\"strategy\":\"best_of_n\",\"n\":2}}" --no-buffer
