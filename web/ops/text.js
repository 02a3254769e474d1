// How numbers and times read.

const whole = new Intl.NumberFormat("en");
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
const minutes = new Intl.DateTimeFormat("en-GB", { timeStyle: "short" });

export const count = (number) => (number < 10000 ? whole.format(number) : compact.format(number));

export const share = (part, all) => (all ? `${three.format((100 * part) / all)}%` : "–");

export function plural(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1) return "<1\u00a0ms";
  if (ms < 1000) return `${Math.round(ms)}\u00a0ms`;
  if (ms < 60_000) return `${three.format(ms / 1000)}\u00a0s`;
  return `${three.format(ms / 60_000)}\u00a0min`;
}

export function age(seconds) {
  const [days, hours, mins] = [86_400, 3600, 60].map((unit) => Math.floor(seconds / unit));
  if (days) return `${days} d ${hours % 24} h`;
  if (hours) return `${hours} h ${mins % 60} min`;
  return mins ? `${mins} min` : `${Math.floor(seconds)} s`;
}

export function usd(amount) {
  if (!amount) return "$0";
  if (amount >= 0.995) return `$${amount.toFixed(2)}`;
  return `$${amount.toFixed(Math.min(9, 1 - Math.floor(Math.log10(amount))))}`;
}

/** What some calls have cost, of which some have a price that nobody knows. */
export function cost(amount, unpriced) {
  if (!unpriced) return usd(amount);
  return amount ? `${usd(amount)} + ?` : "unknown";
}

export const timeOf = (epochS) => clock.format(epochS * 1000);
export const minuteOf = (epochS) => minutes.format(epochS * 1000);

/** `rate_limited` as words. */
export const words = (name) => name.replaceAll("_", " ");

/** Which colour an outcome has. */
export function outcomeClass(code, status) {
  if (code === "completed") return "completed";
  return status >= 500 ? "server-errors" : "client-errors";
}
