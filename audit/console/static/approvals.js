// The list of what waits, as it changes. What comes is text, and is written as text; what it does not know stays as the server drew it.

import { ago, clock } from "./console.js";

const list = document.getElementById("list");
const live = document.getElementById("live");

function element(name, text, className) {
  const e = document.createElement(name);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

// recorded is text that somebody else wrote: it does not turn what stands around it.
const recorded = (text) => element("bdi", text);

function cell(label, ...what) {
  const td = element("td");
  td.dataset.label = label;
  td.append(...what);
  return td;
}

function when(t) {
  const span = element("span", undefined, "when");
  const time = element("time", clock(t));
  time.dateTime = t;
  span.append(time, " ", element("span", ago(Date.parse(t)), "soft ago"));
  return span;
}

function row(a) {
  const tr = element("tr");
  tr.dataset.id = a.id;
  const strong = element("strong");
  strong.append(recorded(a.caller));
  const what = cell("What", recorded(a.model));
  if (a.route) {
    const by = element("span", "by ", "soft");
    by.append(recorded(a.route));
    what.append(" ", by);
  }
  const rule = cell("Rule", recorded(a.rule));
  if (a.message) {
    const says = element("span", undefined, "soft");
    says.append(recorded(a.message));
    rule.append(element("br"), says);
  }
  let go;
  if (a.yours) go = element("span", "your own", "badge calm");
  else if (!a.open) go = element("span", a.state, "badge calm");
  else {
    go = element("a", "Look and decide", "button");
    go.href = "/approvals/" + encodeURIComponent(a.id);
  }
  tr.append(cell("Asked", when(a.asked)), cell("Caller", strong), what, rule,
    cell("Yes", `${a.yes} of ${a.need}`), cell("Until", when(a.until)), cell("", go));
  return tr;
}

if (list && typeof EventSource === "function") {
  const changes = new EventSource("/approvals/changes");
  let before = null;
  changes.addEventListener("waiting", (e) => {
    const all = JSON.parse(e.data);
    const ids = new Set(all.map((a) => a.id));
    const focused = list.contains(document.activeElement) ? document.activeElement.closest("tr")?.dataset.id : undefined;
    list.replaceChildren(...all.map(row));
    if (focused) (list.querySelector(`tr[data-id="${CSS.escape(focused)}"] a`) ?? document.getElementById("main")).focus();
    document.getElementById("nobody").hidden = all.length > 0;
    document.getElementById("waitbox").hidden = all.length === 0;
    const fresh = before === null ? 0 : all.filter((a) => !before.has(a.id)).length;
    const wait = all.length === 1 ? "1 waits." : `${all.length} wait.`;
    live.textContent = fresh > 0 ? `${fresh} new. ${wait}` : `${wait} The list is kept up to date.`;
    document.title = (all.length ? `(${all.length}) ` : "") + "Approvals · Tallystick";
    before = ids;
  });
  changes.addEventListener("error", () => { live.textContent = "The list is not up to date: the connection is broken. It is tried again."; });
}
