// The AI SDK on its OpenAI provider: each line of standard input is one answer to be had, and is
// answered by a line of {"text", "finishReason", "usage", "steps", "error"}. To be had are:
//
//   provider   settings of the provider: baseURL
//   api        "responses", which is what it calls by default, or "chat"
//   stream     whether to stream
//   turns      what the user says, one after the other; the answer to the last is told
//   settings   of generateText or streamText
//   weather    whether there is a tool

import { createInterface } from "node:readline";
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, isStepCount, jsonSchema, streamText, tool } from "ai7";

const weather = tool({
  inputSchema: jsonSchema({ type: "object", properties: { city: { type: "string" } } }),
  execute: ({ city }) => `It rains in ${city}`,
});

async function answer({ provider, api, stream, turns, settings, weather: hasTool }) {
  const openai = createOpenAI({ apiKey: "any", ...provider });
  const model = api === "chat" ? openai.chat("gpt-4o-mini") : openai("gpt-4o-mini");
  const tools = hasTool ? { tools: { weather }, stopWhen: isStepCount(3) } : {};
  const messages = [];
  let failed = null;
  let given;
  let text;
  const asked = { model, messages, maxRetries: 0, ...tools, ...settings };
  const onError = ({ error }) => { failed = error; };
  try {
    for (const content of turns) {
      messages.push({ role: "user", content });
      given = stream ? streamText({ ...asked, onError }) : await generateText(asked);
      text = "";
      if (stream) for await (const words of given.textStream) text += words;
      if (failed) throw failed;
      messages.push(...(await given.response).messages);
    }
    const { inputTokens, outputTokens } = await given.totalUsage;
    return {
      text: await given.text,
      finishReason: await given.finishReason,
      usage: { inputTokens, outputTokens },
      steps: (await given.steps).length,
    };
  } catch (error) {
    return { text, error: { name: error.name, status: error.statusCode, message: error.message } };
  }
}

console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answer(JSON.parse(line))));
}
