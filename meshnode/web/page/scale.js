// Scales of plots: times and numbers at round places. No document.

/** Steps of time that people count in, in seconds. */
const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];

/** Return round moments between two, at most about so many: with the text for each. */
export function ticks(from, to, most) {
  const step = STEPS.find((one) => (to - from) / 1000 / one <= most) ?? 86400;
  // Round for this reader's clock.
  const shift = new Date(from).getTimezoneOffset() * 60000;
  const first = Math.ceil((from - shift) / (step * 1000)) * step * 1000 + shift;
  const found = [];
  for (let at = first; at <= to; at += step * 1000) found.push({ at, text: timeText(at, step) });
  return found;
}

function timeText(at, step) {
  const time = new Date(at);
  const two = (value) => String(value).padStart(2, "0");
  const text = `${two(time.getHours())}:${two(time.getMinutes())}`;
  return step < 60 ? `${text}:${two(time.getSeconds())}` : text;
}

/** Return a round number that is no less, and the steps to it from zero. */
export function levels(most, count = 4, base = 10) {
  if (!(most > 0)) return [0, 1];
  const rough = most / count;
  const size = base ** Math.floor(Math.log(rough) / Math.log(base));
  const factors = base === 10 ? [1, 2, 2.5, 5, 10] : [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024];
  const step = size * factors.find((one) => one * size >= rough * 0.999);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, at) => at * step);
}
