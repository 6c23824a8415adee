// The beginning: the frame of the page, the views by address, and whether the node is there.

import { Api } from "./api.js";
import { batchView } from "./batch.js";
import { confirm, askToken } from "./dialog.js";
import { fill, h, note, say } from "./dom.js";
import { historyView } from "./history.js";
import { Live } from "./live.js";
import { meshView } from "./mesh.js";
import { nodeView } from "./node.js";
import { submitView } from "./submit.js";
import { unitView } from "./unit.js";
import { workView } from "./work.js";

const api = new Api();
const live = new Live(api);
const at = (id) => document.getElementById(id);

/** Views by the first words of an address; the first that fits. What else there is, is the view's. */
const VIEWS = [
  [["mesh", "*"], nodeView],
  [["mesh"], meshView],
  [["work", "new"], submitView],
  [["work", "batch", "*"], batchView],
  [["work", "*"], unitView],
  [["work"], workView],
  [["history"], historyView],
];

let shown = new AbortController();
let shownTitle = "";
/** The version of the node that sent this page. */
let loaded = null;

function go(parts) {
  location.hash = `#/${parts.map(encodeURIComponent).join("/")}`;
}

function partsOf(hash) {
  try {
    return hash.replace(/^#\/?/, "").split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    return []; // a per cent sign that stands for nothing
  }
}

function show(isFirst) {
  const parts = partsOf(location.hash);
  const words = parts.length ? parts : ["mesh"];
  const [pattern, make] = VIEWS.find(([one]) => one.every((word, index) => word === words[index] || (word === "*" && index < words.length))) ?? [["mesh"], unknownView];
  shown.abort();
  shown = new AbortController();
  const fixed = pattern.filter((word) => word !== "*").length;
  const { title, element } = make({ api, live, go, confirm, say: announce, signal: shown.signal }, ...words.slice(fixed));
  fill(at("main"), element);
  shownTitle = title;
  showTitle();
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.view === words[0]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  if (isFirst) return;
  // Who moves by keyboard or ear is where the new view begins.
  element.querySelector("h1")?.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

function showTitle() {
  document.title = `${shownTitle} · ${live.here || "meshnode"}`;
}

function unknownView() {
  return { title: "Nothing", element: h("div", { class: "view" }, h("h1", { tabindex: -1 }, "Nothing here"), note("There is no such view.")) };
}

/** Have a screen reader say something. */
function announce(text) {
  say(at("said"), text);
}

// --- The frame

const STATES = {
  connecting: "connecting",
  live: "live",
  slow: "live, every 10 s",
  unknown: "not signed in",
  lost: "connection lost",
};

function showState() {
  const pill = at("state");
  pill.dataset.state = live.state;
  say(pill, STATES[live.state]);
  const isLost = live.state === "lost";
  at("banner").hidden = !isLost;
  say(at("banner"), isLost ? "The connection to the node is lost. What you see may be old. Trying again …" : "");
  document.body.classList.toggle("lost", isLost);
}

async function showWho() {
  try {
    const { node, version, client } = await api.get([]);
    live.here ||= node;
    loaded ??= version;
    at("upgraded").hidden = version === loaded;
    say(at("node"), node);
    at("node").title = version ? `meshnode ${version}` : "";
    showTitle();
    say(at("who"), [client?.name, client?.kind].filter(Boolean).join(" · "));
  } catch (error) {
    say(at("who"), error.status === 401 ? "not known" : "");
  }
}

function showTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  say(at("theme"), `Theme: ${theme}`);
  try {
    localStorage.setItem("theme", theme);
  } catch {
    // A browser may forbid to keep anything; the theme then lasts as long as the page.
  }
}

function storedTheme() {
  try {
    return localStorage.getItem("theme") ?? "system";
  } catch {
    return "system";
  }
}

function nextTheme() {
  const themes = ["system", "dark", "light"];
  const now = document.documentElement.dataset.theme ?? "system";
  showTheme(themes[(themes.indexOf(now) + 1) % themes.length]);
}

async function changeToken() {
  const token = await askToken();
  if (token === null) return;
  api.token = token;
  begin();
  // What a view has asked for itself is of who was there before.
  show(true);
}

function begin() {
  showWho();
  live.start();
}

at("theme").addEventListener("click", nextTheme);
at("token").addEventListener("click", changeToken);
at("reload").addEventListener("click", () => location.reload());
at("skip").addEventListener("click", () => at("main").querySelector("h1")?.focus());
api.addEventListener("refused", () => (at("token").hidden = false));
live.addEventListener("state", showState);
live.addEventListener("state", () => live.state === "live" && showWho());
window.addEventListener("hashchange", () => show(false));
showTheme(storedTheme());
show(true);
begin();
