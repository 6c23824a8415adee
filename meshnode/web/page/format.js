// How values look. Nothing here touches the document.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
const NOTHING = "–";

/** Return a size: 1536 is "1.5 KiB". */
export function bytes(count) {
  if (!isNumber(count)) return NOTHING;
  let [value, unit] = [count, 0];
  while (Math.abs(value) >= 1024 && unit < UNITS.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit ? digits(value) : Math.round(value)} ${UNITS[unit]}`;
}

/** Return a rate of bytes in a second. */
export function rate(count) {
  return isNumber(count) ? `${bytes(count)}/s` : NOTHING;
}

/** Return a short time in seconds: 0.0005 is "0.5 ms". */
export function brief(seconds) {
  if (!isNumber(seconds)) return NOTHING;
  if (seconds > 0 && seconds < 0.001) return `${digits(seconds * 1e6)} µs`;
  return seconds > 0 && seconds < 1 ? `${digits(seconds * 1000)} ms` : `${digits(seconds)} s`;
}

/** Return a time in seconds as people say it: 250 is "4 min 10 s". */
export function duration(seconds) {
  if (!isNumber(seconds)) return NOTHING;
  if (seconds < 60) return seconds < 10 ? brief(Math.max(0, seconds)) : `${Math.floor(seconds)} s`;
  const [days, hours, minutes] = [86400, 3600, 60].map((size) => Math.floor(seconds / size));
  if (days) return `${days} d ${hours % 24} h`;
  return hours ? `${hours} h ${minutes % 60} min` : `${minutes} min ${Math.floor(seconds % 60)} s`;
}

/** Return the moment, in milliseconds since 1970, that a text of the API means; NaN if none. */
export function moment(text) {
  // The year 1 is receptor's way to say "never". More digits than milliseconds are cut.
  if (typeof text !== "string" || text.startsWith("0001-")) return NaN;
  return Date.parse(text.replace(/(\.\d{3})\d+/, "$1"));
}

/** Return when something was, in this reader's time zone: with the day if it was not today. */
export function clock(text, now = Date.now()) {
  const at = typeof text === "number" ? text : moment(text);
  if (Number.isNaN(at)) return NOTHING;
  const [then, today] = [new Date(at), new Date(now)];
  const time = [then.getHours(), then.getMinutes(), then.getSeconds()].map(two).join(":");
  const day = `${then.getFullYear()}-${two(then.getMonth() + 1)}-${two(then.getDate())}`;
  return then.toDateString() === today.toDateString() ? time : `${day} ${time}`;
}

/** Return how long ago something was: "4 min ago". */
export function ago(text, now) {
  const at = moment(text);
  if (Number.isNaN(at)) return NOTHING;
  const seconds = Math.max(0, (now - at) / 1000);
  if (seconds < 2) return "just now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  return seconds < 172800 ? `${Math.floor(seconds / 3600)} h ago` : `${Math.floor(seconds / 86400)} d ago`;
}

/** Return how many there are of something: "1 node", "2 nodes". */
export function count(number, one, many = `${one}s`) {
  return `${number} ${number === 1 ? one : many}`;
}

// eslint-disable-next-line no-control-regex
const ESCAPES = /\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])/g;
// eslint-disable-next-line no-control-regex
const CONTROLS = /[\x00-\x08\x0b-\x1f\x7f]/g;
/** These turn the direction of what follows them, also of what is not theirs. */
const TURNS = /[\u202a-\u202e\u2066-\u2069]/g;

/** Return a text that turns no other. */
export function straight(text) {
  return text.replace(TURNS, "�");
}

/** Return a line of output without colours, with other controls as visible signs. */
export function printable(text) {
  const plain = text.replace(ESCAPES, "").replace(/\r$/, "");
  return straight(plain.replace(CONTROLS, (one) => (one === "\x7f" ? "␡" : String.fromCharCode(0x2400 + one.charCodeAt(0)))));
}

function digits(value) {
  return value >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(value >= 10 ? 3 : 2)));
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

function two(value) {
  return String(value).padStart(2, "0");
}
