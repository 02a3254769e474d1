// A page that chats by the AI SDK's useChat: node use_chat.mjs ai5|ai6|ai7
//
// Each line of standard input is a conversation to be had, and is answered by a line of what the
// page showed: {"statuses", "messages", "error", "finished"}. A conversation is:
//
//   chat     settings of the chat, such as its id and messages to begin with
//   request  settings of its transport: api, headers, body
//   text     whether to use TextStreamChatTransport
//   resume   whether to ask for an answer under way when the page opens
//   steps    what the user does, one after the other: ["sendMessage", {"text": "Hello"}]
//   stopAt   words that the user stops the answer at

import { createInterface } from "node:readline";
import { createElement } from "react";
import { create } from "react-test-renderer";

const sdk = process.argv[2];
const { DefaultChatTransport, TextStreamChatTransport } = await import(sdk);
const { Chat, useChat } = await import(`${sdk}-react`);
console.error = () => {}; // useChat's error is told; the renderer's is that it is deprecated

const textOf = (message) =>
  message.parts.map((part) => (part.type === "text" ? part.text : "")).join("");
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function converse({ chat: settings, request, text, resume, steps, stopAt }) {
  const Transport = text ? TextStreamChatTransport : DefaultChatTransport;
  const finished = [];
  const chat = new Chat({
    ...settings,
    transport: new Transport(request),
    onFinish: ({ message, messages, ...facts }) =>
      finished.push({ text: textOf(message), ...facts }),
  });
  const statuses = [];
  // What useChat listens to; React may skip one that passes quickly.
  chat["~registerStatusCallback"](() => statuses.push(chat.status));

  let shown;
  function Page() {
    shown = useChat({ chat, resume });
    const last = shown.messages.at(-1);
    if (stopAt && last?.role === "assistant" && textOf(last).includes(stopAt)) shown.stop();
    return null;
  }
  const isBusy = () => ["submitted", "streaming"].includes(chat.status);
  const isBehind = () => shown?.status !== chat.status || shown?.messages !== chat.messages;

  const page = create(createElement(Page));
  do await sleep(1); while (isBehind() || isBusy());
  for (const [action, ...args] of steps) {
    await shown[action](...args);
    do await sleep(1); while (isBehind() || isBusy());
  }
  page.unmount();
  return { statuses, messages: shown.messages, error: shown.error?.message ?? null, finished };
}

console.log("ready");
for await (const line of createInterface({ input: process.stdin })) {
  console.log(JSON.stringify(await converse(JSON.parse(line))));
}
