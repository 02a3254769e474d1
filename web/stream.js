/* Server-Sent Events, as far as the AI SDK's UI message stream uses them: bytes in, values out. */

/**
 * The events of a reply's body, in order. It just ends where the body ends: whether that was the
 * proper end only the events can say.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<object>}
 */
export async function* events(body) {
  let rest = "";
  for await (const text of chunks(body.pipeThrough(new TextDecoderStream()))) {
    const blocks = (rest + text).split("\n\n");
    rest = blocks.pop();
    for (const block of blocks) {
      const data = dataOf(block);
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

/** The data of an event; empty for a comment. */
function dataOf(block) {
  return block
    .split("\n")
    .filter((line) => line.startsWith("data:"))
    .map((line) => line.slice(5).trimStart())
    .join("\n");
}

// Safari has no async iterator on streams.
async function* chunks(stream) {
  const reader = stream.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
  } finally {
    await reader.cancel();
  }
}
