// Whether somebody sees the page, or has within the last minute.

/** Seconds for which a page that nobody sees goes on as if somebody did. */
const UNSEEN = 60;

/** Return when the page is seen, or a signal comes. */
export async function whenSeen(signal) {
  while (document.hidden && !signal.aborted) {
    await new Promise((resolve) => {
      const done = () => {
        document.removeEventListener("visibilitychange", done);
        signal.removeEventListener("abort", done);
        resolve();
      };
      document.addEventListener("visibilitychange", done);
      signal.addEventListener("abort", done);
    });
  }
}

/**
 * Return a controller that aborts when the page has not been seen for a while, or with a signal; and
 * when it is left: a browser keeps it for who comes back, and its connections with it.
 */
export function untilUnseen(signal) {
  const controller = new AbortController();
  let timer = null;
  const look = () => {
    clearTimeout(timer);
    if (document.hidden) timer = setTimeout(() => controller.abort(), UNSEEN * 1000);
  };
  const end = () => controller.abort();
  document.addEventListener("visibilitychange", look, { signal: controller.signal });
  window.addEventListener("pagehide", end, { signal: controller.signal });
  signal.addEventListener("abort", end, { once: true, signal: controller.signal });
  controller.signal.addEventListener("abort", () => clearTimeout(timer), { once: true });
  look();
  return controller;
}
