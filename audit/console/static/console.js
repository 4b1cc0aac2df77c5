// What all pages have: a button for the colours, and times that go on.

const button = document.getElementById("theme");
const names = { "": "as the system has them", light: "light", dark: "dark" };
const signs = { "": "◐", light: "☀", dark: "☾" };

function chosen() {
  const t = document.documentElement.dataset.theme;
  return t === "dark" || t === "light" ? t : "";
}

function say() {
  button.textContent = signs[chosen()];
  button.setAttribute("aria-label", "Colours: " + names[chosen()]);
  button.title = "Colours: " + names[chosen()];
}

if (button) {
  button.hidden = false;
  say();
  button.addEventListener("click", () => {
    const next = { "": "dark", dark: "light", light: "" }[chosen()];
    if (next) document.documentElement.dataset.theme = next;
    else delete document.documentElement.dataset.theme;
    try {
      if (next) localStorage.setItem("theme", next);
      else localStorage.removeItem("theme");
    } catch { /* it lasts as long as the page, then */ }
    say();
  });
}

// Long says how long something is, as the server does.
function long(s) {
  if (s < 120) return Math.floor(s) + " s";
  if (s < 7200) return Math.floor(s / 60) + " min";
  if (s < 48 * 3600) return Math.floor(s / 3600) + " hours";
  return Math.floor(s / 86400) + " days";
}

// ago says how long before or after now a time is.
export function ago(t, now = Date.now()) {
  const s = (now - t) / 1000;
  if (s < 0) return "in " + long(-s);
  return s < 2 ? "just now" : long(s) + " ago";
}

// clock writes a time in UTC.
export function clock(t) {
  return new Date(t).toISOString().replace("T", " ").replace(/\.\d+Z$/, "") + " UTC";
}

setInterval(() => {
  if (document.hidden) return;
  for (const when of document.querySelectorAll(".when")) {
    const t = when.querySelector("time"), a = when.querySelector(".ago");
    if (t && a) a.textContent = ago(Date.parse(t.dateTime));
  }
}, 5000);

// What looks as if it were masked on record, a number, an address or a secret, is searched for by a form that leaves it out of
// the browser's history.
const find = document.querySelector("form.find");
if (find) find.addEventListener("submit", () => {
  if (/\d[\d .-]{5,}\d|@|[\w+/-]{20,}|value:/i.test(find.elements.q.value)) find.method = "post";
});

// What is opened by a link to it is unfolded, so that it is seen.
function unfold() {
  const at = location.hash && document.getElementById(decodeURIComponent(location.hash.slice(1)));
  for (let e = at; e; e = e.parentElement) if (e instanceof HTMLDetailsElement) e.open = true;
  if (at) at.scrollIntoView({ block: "center" });
}
addEventListener("hashchange", unfold);
unfold();
