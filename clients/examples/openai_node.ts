// The OpenAI SDK for TypeScript with strop: knobs, the bill, a stream with progress.
import process from "node:process";
import OpenAI from "openai";

const url = process.env.STROP_URL ?? "http://127.0.0.1:8000";
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: process.env.STROP_API_KEY ?? "none" });
const model = (await client.models.list()).data[0].id;
const messages: OpenAI.ChatCompletionMessageParam[] = [{ role: "user", content: "What is 17 * 23?" }];

// 1. A strategy with knobs. The SDK sends unknown keys as they are; spreading keeps the type checker content.
const best = { strop: { strategy: "best_of_n", n: 4 } };
const response = await client.chat.completions.create({ model, messages, ...best });
console.log(response.choices[0].message.content);
console.log("bill:", JSON.stringify(Object(response).strop.bill.total));

// 2. A stream: progress goes to stderr, words to stdout.
const vote = { strop: { strategy: "self_consistency", n: 4 } };
const stream = await client.chat.completions.create({ model, messages, stream: true, ...vote });
for await (const chunk of stream) {
  const delta = Object(chunk.choices[0].delta);
  process.stderr.write(delta.reasoning_content ?? "");
  process.stdout.write(delta.content ?? "");
}

// 3. A preset is only a model name.
const preset = await client.chat.completions.create({ model: `${model}:vote-8`, messages });
console.log("\nstrategy:", Object(preset).strop.strategy);
