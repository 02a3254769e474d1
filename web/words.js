/* What happened, in words. */

/**
 * How an answer ended.
 *
 * @param {{state: string, text: string}} turn
 * @param {Failure | null} failure
 * @param {boolean} isFirst whether nothing was said before
 */
export function ending({ state, text }, failure, isFirst) {
  if (state === "complete") return "Answer complete.";
  if (state === "stopped") return text ? "Stopped here." : "Stopped.";
  const sentences = [failure.message.replace(/\.?$/, ".")];
  if (text) sentences.push("The answer is not whole.");
  if (failure.code === "prompt_too_long" && !isFirst) {
    sentences.push("A new chat goes without what was said so far.");
  }
  return sentences.join(" ");
}

/** Facts of an answer, as `finish` brings them, for those who read it. */
export function inWords({ model, charged, provider, attempts, latencyMs, firstTokenMs, finishReason, cut }) {
  const facts = [model];
  if (provider && provider !== "default") facts.push(`by ${provider}`);
  if (charged) {
    const about = charged.estimated ? "≈ " : "";
    facts.push(`${about}${charged.promptTokens} tokens in, ${charged.answerTokens} out`);
    if (charged.usd) facts.push(`≈ ${dollars(charged.usd)}`);
  }
  if (latencyMs) facts.push(`${seconds(latencyMs)}, first word after ${seconds(firstTokenMs)}`);
  if (attempts) facts.push(attempts === 1 ? "1 attempt" : `${attempts} attempts`);
  if (cut || finishReason === "length") facts.push("cut at the token limit");
  if (finishReason === "content-filter") facts.push("cut by the provider’s filter");
  return facts;
}

function seconds(ms) {
  return `${(ms / 1000).toFixed(ms < 995 ? 2 : 1)} s`;
}

function dollars(usd) {
  return usd.toLocaleString("en", {
    style: "currency",
    currency: "USD",
    maximumSignificantDigits: 2,
  });
}

/** Seconds as a reader counts them: 45 s, 3 min 5 s, 2 h 10 min. */
export function countdown(seconds) {
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}
