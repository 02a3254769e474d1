// OpenAI's own client: each line of standard input is one call of it, and is answered by a line of
// {"result", "requestId"}, or {"events", "error"} of a stream. A call is:
//
//   client     settings of the client: baseURL, maxRetries
//   call       what to call, such as "chat.completions.create"
//   argument   its argument
//   final      of a helper: which method tells the whole answer

import { createInterface } from "node:readline";
import OpenAI from "openai";

// For runTools, which calls the function when the model asks for it.
const weather = {
  type: "function",
  function: {
    name: "weather",
    parameters: { type: "object", properties: { city: { type: "string" } } },
    parse: JSON.parse,
    function: ({ city }) => `It rains in ${city}`,
  },
};

async function answer({ client, call, argument, final }) {
  const path = call.split(".");
  const method = path.pop();
  const api = path.reduce((at, name) => at[name], new OpenAI({ apiKey: "any", ...client }));
  const events = [];
  try {
    if (method === "runTools") argument.tools = [weather];
    const given = await api[method](argument);
    if (final) return { result: await given[final]() };
    if (!argument.stream) return { result: given, requestId: given._request_id };
    for await (const event of given) events.push(event);
    return { events };
  } catch (error) {
    const { status, code, type, param, message } = error;
    return { events, error: { name: error.constructor.name, status, code, type, param, message } };
  }
}

console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await answer(JSON.parse(line))));
}
