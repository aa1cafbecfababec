"""The OpenAI SDK with strop: knobs, the bill, a stream with progress, a base URL per strategy."""

# ruff: noqa: T201
import os
import sys

from openai.types.chat import ChatCompletionMessageParam

from strop.clients import bill, openai_client, refine

url = os.environ.get("STROP_URL", "http://127.0.0.1:8000")
key = os.environ.get("STROP_API_KEY", "none")
client = openai_client(url, api_key=key)  # OpenAI(base_url=f"{url}/v1", api_key=key)
model = client.models.list().data[0].id
question: list[ChatCompletionMessageParam] = [{"role": "user", "content": "What is 17 * 23?"}]

# 1. A strategy with knobs. Without strop.clients: extra_body={"strop": {"strategy": "best_of_n", "n": 4}}
response = client.chat.completions.create(model=model, messages=question, extra_body=refine("best_of_n", n=4))
print(response.choices[0].message.content)
print("bill:", bill(response))
print("usage:", response.usage)  # completion_tokens counts all of them; the hidden part is in reasoning_tokens

# 2. A stream: progress goes to stderr, words to stdout, the bill is on the last chunk.
stream = client.chat.completions.create(
    model=model, messages=question, stream=True, extra_body=refine("self_consistency", n=4)
)
for chunk in stream:
    delta = chunk.choices[0].delta
    print(getattr(delta, "reasoning_content", None) or "", end="", file=sys.stderr)
    print(delta.content or "", end="", flush=True)
    if paid := bill(chunk):
        print("\nbill:", paid)

# 3. A client whose every call uses one strategy: the strategy is in the base URL.
voting = openai_client(url, strategy="self_consistency", api_key=key)
print("bill:", bill(voting.chat.completions.create(model=model, messages=question)))
