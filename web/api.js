/* What the page asks of the server. */

import { events } from "./stream.js";

/** Why a question has no whole answer, in words for the reader. */
export class Failure extends Error {
  /**
   * @param {string} text
   * @param {{code?: string, requestId?: string, waitS?: number, retryable?: boolean}} [facts]
   *   code: as in docs/api.md; waitS: seconds after which it may be tried again; retryable: as
   *   the server says, true where it did not get to say anything.
   */
  constructor(text, { code = "", requestId = "", waitS = 0, retryable = true } = {}) {
    super(text);
    Object.assign(this, { code, requestId, waitS, retryable });
  }
}

/**
 * What may be asked here, as schemas/session.json has it.
 *
 * @param {string} key sent along, unless it is empty
 * @throws {Failure}
 */
export async function fetchSession(key) {
  const reply = await reach("/api/session", { headers: credentials(key) });
  if (!reply.ok) throw await refusal(reply);
  return reply.json();
}

/**
 * The events of a whole answer: the last is `finish`.
 *
 * @param {object} question as schemas/chat.request.json has it
 * @param {{key: string, xsrfToken: string, scenario: string, signal: AbortSignal}} options
 * @throws {Failure} also half-way. Stopped by `signal` it throws something else.
 */
export async function* ask(question, { key, xsrfToken, scenario, signal }) {
  const headers = {
    ...credentials(key),
    "Content-Type": "application/json",
    Accept: "text/event-stream",
    "X-XSRFToken": xsrfToken,
  };
  if (scenario) headers["X-Replay-Scenario"] = scenario;
  const body = JSON.stringify({ ...question, stream: true });
  const reply = await reach("/api/chat", { method: "POST", headers, body, signal });
  if (!isStream(reply)) throw await refusal(reply);
  const requestId = reply.headers.get("X-Request-Id");
  let whole = false;
  try {
    // To the very end, for one who leaves before it is a client that has gone.
    for await (const event of events(reply.body)) {
      if (event.type === "error") throw new Failure(event.errorText, { ...event, requestId });
      whole ||= event.type === "finish";
      yield event;
    }
  } catch (fault) {
    if (fault instanceof Failure || signal.aborted) throw fault;
  }
  if (!whole) {
    throw new Failure("The connection broke off.", { requestId });
  }
}

function credentials(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function reach(address, options) {
  try {
    return await fetch(address, options);
  } catch (fault) {
    if (options.signal?.aborted) throw fault;
    throw new Failure("The server cannot be reached.");
  }
}

function isStream(reply) {
  return reply.ok && (reply.headers.get("Content-Type") ?? "").startsWith("text/event-stream");
}

/** Why the server, or something before it, gave no answer. */
async function refusal(reply) {
  const told = await reply.json().catch(() => null); // a proxy's page is no JSON
  return new Failure(told?.error ?? `The server answered ${reply.status}.`, {
    code: told?.code,
    retryable: told?.retryable,
    requestId: told?.requestId,
    waitS: told?.retry_after ?? (Number(reply.headers.get("Retry-After")) || 0),
  });
}
