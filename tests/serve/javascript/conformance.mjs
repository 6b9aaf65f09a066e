// Asks a server over every route with OpenAI's own client; prints the names of what held.
// node conformance.mjs http://127.0.0.1:8000/v1 KEY MODEL PICTURE

import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey, model, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "user", content: "Describe it." }];
const shown = [{
  role: "user",
  content: [
    { type: "image_url", image_url: { url: picture } },
    { type: "text", text: "What is this?" },
  ],
}];
const parameters = {
  type: "object",
  properties: { kind: { enum: ["x", "yy"] } },
  required: ["kind"],
  additionalProperties: false,
};
const tools = [{ type: "function", function: { name: "choose", parameters } }];
const limits = { model, max_tokens: 8, temperature: 0 };

const checks = {
  async models() {
    const names = [];
    for await (const one of client.models.list()) names.push(one.id);
    assert.ok(names.includes(model));
    assert.equal((await client.models.retrieve(model)).id, model);
  },

  async chatWholeAndInParts() {
    const whole = await client.chat.completions.create({ ...limits, messages: shown });
    assert.ok(whole.usage.prompt_tokens_details.image_tokens > 0);
    const stream = await client.chat.completions.create({
      ...limits, messages: shown, stream: true, stream_options: { include_usage: true },
    });
    let text = "", usage = null, reason = null;
    for await (const chunk of stream) {
      text += chunk.choices[0]?.delta?.content ?? "";
      reason = chunk.choices[0]?.finish_reason ?? reason;
      usage = chunk.usage ?? usage;
    }
    assert.equal(text, whole.choices[0].message.content);
    assert.equal(reason, whole.choices[0].finish_reason);
    assert.equal(usage.completion_tokens, whole.usage.completion_tokens);
  },

  async chatStreamHelper() {
    const runner = client.chat.completions.stream({ ...limits, messages });
    const final = await runner.finalChatCompletion();
    const whole = await client.chat.completions.create({ ...limits, messages });
    assert.equal(final.choices[0].message.content, whole.choices[0].message.content);
  },

  async severalWithLogprobs() {
    const answer = await client.chat.completions.create({
      ...limits, messages, n: 2, seed: 1, temperature: 1, logprobs: true, top_logprobs: 3,
    });
    assert.equal(answer.choices.length, 2);
    for (const choice of answer.choices) {
      assert.ok(choice.logprobs.content.every((one) => one.top_logprobs.length === 3));
    }
  },

  async jsonSchema() {
    const answer = await client.chat.completions.create({
      model, messages, max_tokens: 400,
      response_format: { type: "json_schema", json_schema: { name: "k", schema: parameters } },
    });
    assert.ok(["x", "yy"].includes(JSON.parse(answer.choices[0].message.content).kind));
  },

  async tools() {
    const asked = { model, messages, tools, tool_choice: "required", max_tokens: 600 };
    const answer = await client.chat.completions.create(asked);
    const [call] = answer.choices[0].message.tool_calls;
    assert.equal(call.function.name, "choose");
    assert.ok(["x", "yy"].includes(JSON.parse(call.function.arguments).kind));
    const streamed = await client.chat.completions.stream(asked).finalChatCompletion();
    assert.deepEqual(
      streamed.choices[0].message.tool_calls[0].function.arguments, call.function.arguments,
    );
    const result = { role: "tool", tool_call_id: call.id, content: "42" };
    const after = await client.chat.completions.create({
      ...limits, tools, messages: [...messages, answer.choices[0].message, result],
    });
    assert.equal(after.object, "chat.completion");
  },

  async responses() {
    const asked = { model, input: "Describe it.", max_output_tokens: 8, temperature: 0 };
    const whole = await client.responses.create(asked);
    let text = "", last = null;
    for await (const event of await client.responses.create({ ...asked, stream: true })) {
      if (event.type === "response.output_text.delta") text += event.delta;
      last = event;
    }
    assert.equal(text, whole.output_text);
    assert.equal(last.response.status, whole.status);
  },

  async completions() {
    const asked = { ...limits, prompt: "Hello" };
    const whole = await client.completions.create(asked);
    let text = "";
    for await (const chunk of await client.completions.create({ ...asked, stream: true })) {
      text += chunk.choices[0].text;
    }
    assert.equal(text, whole.choices[0].text);
  },

  async errors() {
    await assert.rejects(
      client.chat.completions.create({ ...limits, messages, n: 0 }),
      (error) => error instanceof OpenAI.BadRequestError && error.param === "n",
    );
    await assert.rejects(
      client.chat.completions.create({ ...limits, messages, model: "none" }),
      (error) => error instanceof OpenAI.NotFoundError && error.code === "model_not_found",
    );
    const stranger = new OpenAI({ baseURL, apiKey: "sk-0000000000000000", maxRetries: 0 });
    await assert.rejects(
      stranger.models.list(), (error) => error instanceof OpenAI.AuthenticationError,
    );
  },

  async leavingEarly() {
    const stream = await client.chat.completions.create({ ...limits, messages, stream: true });
    for await (const chunk of stream) {
      assert.ok(chunk.id);
      break; // closes the connection
    }
    assert.ok(await client.chat.completions.create({ ...limits, messages }));
  },
};

for (const [name, check] of Object.entries(checks)) {
  await check();
  console.log(name);
}
