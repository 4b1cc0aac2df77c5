// The panel on which a bundle is held against its proofs, in the browser, by verify.js. It finds
//
//	<section id="proof" data-bundle="URL" data-policy="URL">   where the session's bundle and the console's policy are
//	  <div id="verdict" aria-live="polite"></div>              to which it adds the verdict, in words
//
// and adds to the section what a person needs: a button, a file to choose or to drop, the policy, and a table of what was found. Whatever
// it shows is set as text.
//
// By which policy a log is judged is pinned: somebody chooses it once, by its SHA-256, and it is kept in this browser under the log's name
// (localStorage, "tallystick policy ORIGIN", in base64). Until then there is only the one that the console serves, and the verdict says what that is
// worth.

import { NOT_JUDGED, checkBundle, fingerprint, fromBase64, originOf, parsePolicy, toBase64 } from "./verify.js";

const ROWS = 500; // of the table, at most; what is false comes first
const ENTRIES = 200; // whose contents are shown, at most
const CHARACTERS = 4096; // of each of their fields
const LOOKS = { holds: "good", first: "warn", open: "warn", refused: "bad", error: "bad", busy: "" };

/** Makes an element with attributes and children, which are elements or text. */
function make(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) e.addEventListener(key.slice(2), value);
    else if (value === true) e.setAttribute(key, "");
    else if (value !== false) e.setAttribute(key, value);
  }
  e.append(...children);
  return e;
}

/** The pinned policy of a log, or null where there is none, or what is kept is none any more. */
async function pinned(origin) {
  try {
    return await policyOf(fromBase64(localStorage.getItem(`tallystick policy ${origin}`)));
  } catch {
    return null;
  }
}

/** The logs of which a policy is pinned here. */
function pins() {
  try {
    return Object.keys(localStorage).filter((k) => k.startsWith("tallystick policy ")).map((k) => k.slice("tallystick policy ".length));
  } catch {
    return [];
  }
}

/** A policy file that was read: { bytes, sum, policy }. Throws where it is none. */
async function policyOf(bytes) {
  return { bytes, sum: await fingerprint(bytes), policy: await parsePolicy(bytes) };
}

/** Keeps a policy as that of each of its logs. */
function pin({ bytes, policy }) {
  for (const { name } of policy.logs) localStorage.setItem(`tallystick policy ${name}`, toBase64(bytes));
}

function forget({ policy }) {
  for (const { name } of policy.logs) localStorage.removeItem(`tallystick policy ${name}`);
}

/** What a person is told of a report, in a sentence or two: { class, text }. */
export function verdictOf(report, use) {
  const wrong = report.findings.filter((f) => f.ok === false), open = report.findings.filter((f) => f.ok === null);
  const say = (list, is) => {
    const some = list.slice(0, 3).map((f) => `${f.claim} is ${is} for ${f.subject === "bundle" || f.subject === "checkpoint" ? "the " : ""}${f.subject}${f.detail && `: ${f.detail}`}`);
    if (list.length > some.length) some.push(`and ${list.length - some.length} more`);
    return some.join("; ");
  };
  switch (report.verdict) {
    case "holds":
      if (use?.pinned) return { is: "holds", text: `Everything in this bundle holds under the policy you pinned.` };
      return {
        is: "first", text: "Everything in this bundle holds under the policy that this console serves, which you have not pinned: trust on first use. " +
          `Compare its fingerprint, SHA-256 ${use?.sum}, with one that you got elsewhere.` +
          (use?.others.length ? ` The bundle says that it is of the log ${use.origin}; what you pinned is of ${use.others.join(", ")}.` : ""),
      };
    case "refused":
      return { is: "refused", text: `REFUSED: ${say(wrong, "false")}.` };
    case "unreadable":
      return { is: "refused", text: `REFUSED, for it cannot be read: ${say(wrong, "false")}.` };
    default:
      return { is: "open", text: `NOT PROVEN HERE, and so not accepted: ${say(open, "not proven")}.` };
  }
}

class Panel {
  constructor(section) {
    this.section = section;
    this.verdict = section.querySelector("#verdict");
    this.button = make("button", { type: "button", id: "check", onclick: () => this.checkServed() }, "Check the proofs in this browser");
    this.file = make("input", { type: "file", id: "bundle-file", onchange: () => this.file.files[0] && this.checkFile(this.file.files[0]) });
    this.policy = make("div", { id: "pin", class: "stack" });
    this.found = make("div", { id: "findings", class: "stack" });
    const controls = make("div", { id: "proof-controls", class: "row buttons" },
      ...(section.dataset.bundle ? [this.button] : []),
      make("label", { class: "field", for: "bundle-file" }, "or a bundle from a file, which can be dropped here too", this.file));
    this.verdict.before(controls, this.policy);
    this.verdict.after(this.found);
    section.addEventListener("dragover", (e) => e.preventDefault());
    section.addEventListener("drop", (e) => {
      e.preventDefault();
      if (e.dataTransfer.files[0]) this.checkFile(e.dataTransfer.files[0]);
    });
    this.showPolicy();
  }

  say(is, text) {
    this.verdict.dataset.is = is;
    this.verdict.replaceChildren(make("p", { class: `notice ${LOOKS[is]}` }, text));
  }

  /** The policy that the console serves: { bytes, sum, policy }, or null. */
  async served() {
    const url = this.section.dataset.policy;
    if (!url) return null;
    try {
      const response = await fetch(url);
      if (!response.ok) return null;
      const bytes = new Uint8Array(await response.arrayBuffer());
      return bytes.length === 0 ? null : await policyOf(bytes);
    } catch {
      return null;
    }
  }

  /** What is known of policies for a log: the pinned one, the served one, and which is to be used. */
  async policies(origin) {
    const served = await this.served();
    let mine = null;
    const names = origin === undefined ? (served?.policy.logs ?? []).map((l) => l.name) : [origin];
    for (const name of names) mine ??= await pinned(name);
    return { served, mine };
  }

  async showPolicy() {
    const { served, mine } = await this.policies();
    const area = make("textarea", { id: "policy-text", rows: "6", spellcheck: "false", autocomplete: "off" });
    const file = make("input", { type: "file", id: "policy-file" });
    const wrong = make("p", { id: "policy-wrong", role: "alert" });
    const take = async (bytes) => {
      try {
        const p = await policyOf(bytes);
        if (p.policy.logs.length === 0) throw new Error("it names no log");
        pin(p);
        this.showPolicy();
      } catch (e) {
        wrong.textContent = `This policy is not pinned: ${e.message}`;
      }
    };
    file.addEventListener("change", async () => file.files[0] && take(new Uint8Array(await file.files[0].arrayBuffer())));
    const paste = () => take(new TextEncoder().encode(area.value.endsWith("\n") || area.value === "" ? area.value : `${area.value}\n`));
    const says = [];
    if (mine) {
      says.push(make("p", { id: "pinned" }, "You pinned a policy in this browser: SHA-256 ", make("code", {}, mine.sum), ". ",
        make("button", { type: "button", id: "forget", onclick: () => { forget(mine); this.showPolicy(); } }, "Forget it")));
      if (served && served.sum !== mine.sum) {
        says.push(make("p", { id: "differs", class: "notice bad", role: "alert" }, "The console serves ANOTHER policy: SHA-256 ", make("code", {}, served.sum),
          ". Yours is used. Ask whoever runs the log why it changed before you pin another."));
      }
    } else if (served) {
      says.push(make("p", { id: "unpinned" }, "No policy is pinned. The console serves one, SHA-256 ", make("code", {}, served.sum),
        ": compare this fingerprint with one that you got elsewhere, from a witness or from whoever runs the log. ",
        make("button", { type: "button", id: "pin-served", onclick: () => { pin(served); this.showPolicy(); } }, "It is the same: pin it")));
    } else {
      says.push(make("p", { id: "unpinned" }, "No policy is pinned, and the console serves none that can be read: without one nothing is proven about a checkpoint."));
    }
    this.policy.replaceChildren(...says, make("details", {},
      make("summary", {}, "Pin a policy that you have"),
      make("label", { class: "field", for: "policy-text" }, "The file, pasted", area),
      make("p", {}, make("button", { type: "button", id: "pin-pasted", onclick: paste }, "Pin what is pasted")),
      make("label", { class: "field", for: "policy-file" }, "or chosen, which pins it at once", file)), wrong);
  }

  async checkServed() {
    await this.check(this.section.dataset.session, async () => {
      const response = await fetch(this.section.dataset.bundle, { headers: { Accept: "application/json" } });
      const kind = response.headers.get("Content-Type") ?? "";
      if (!response.ok || !kind.startsWith("application/json")) {
        const why = kind.startsWith("text/plain") ? (await response.text()).trim().slice(0, 500) : "reload the page";
        throw new Error(`the console did not hand out the bundle, with status ${response.status}: ${why}`);
      }
      return new Uint8Array(await response.arrayBuffer());
    });
  }

  async checkFile(file) {
    await this.check(undefined, async () => new Uint8Array(await file.arrayBuffer()));
    this.file.value = "";
  }

  /** Checks what get brings, which is to be about a session, if one is named. */
  async check(session, get) {
    if (this.button.disabled) return;
    this.button.disabled = true;
    this.section.setAttribute("aria-busy", "true");
    this.found.replaceChildren();
    this.say("busy", "Checking…");
    try {
      const bytes = await get();
      const origin = originOf(bytes);
      const { served, mine } = await this.policies(origin);
      const use = mine ?? served;
      const report = await checkBundle(bytes, use?.policy ?? null);
      const { is, text } = verdictOf(report, use && { pinned: use === mine, sum: use.sum, origin, others: pins() });
      if (session && is !== "refused" && !report.bundle?.sessions.some((s) => s.id === session)) {
        this.say("refused", `REFUSED: the console handed out a bundle that is not about the session ${session}.`);
      } else {
        this.say(is, text);
      }
      this.show(report, use, served, mine, bytes);
    } catch (e) {
      this.say("error", `It was not checked: ${e.message}`);
    } finally {
      this.button.disabled = false;
      this.section.removeAttribute("aria-busy");
    }
  }

  show(report, use, served, mine, bytes) {
    const words = new Map([[true, "holds"], [false, "FALSE"], [null, "not proven here"]]);
    const order = [false, null, true];
    const findings = report.findings.toSorted((a, b) => order.indexOf(a.ok) - order.indexOf(b.ok));
    const tones = new Map([[true, "good"], [false, "bad"], [null, "warn"]]);
    const rows = findings.slice(0, ROWS).map((f) => make("tr", { "data-ok": String(f.ok), "data-claim": f.claim },
      make("td", {}, make("span", { class: `badge ${tones.get(f.ok)}` }, words.get(f.ok))), make("th", { scope: "row" }, make("code", {}, f.claim)),
      make("td", { "data-label": "About" }, f.subject), make("td", { "data-label": "Detail" }, f.detail)));
    const more = findings.length - rows.length;
    this.found.replaceChildren(
      make("p", { id: "judged-by", class: "soft" }, !use ? "Judged by no policy: none is pinned for this log, and none served."
        : use !== mine ? `Judged by the policy that the console serves, SHA-256 ${use.sum}, which you have not pinned.`
          : `Judged by the policy that you pinned, SHA-256 ${use.sum}${served && served.sum !== use.sum ? `; the console serves another, SHA-256 ${served.sum}` : ""}.`),
      make("p", { id: "about", class: "soft" }, `${(report.bundle?.sessions ?? []).slice(0, 20).map((s) => `Session ${s.id}, ${s.entries.length} entries. `).join("")}${report.findings.length} claims about ${bytes.length} bytes${more > 0 ? `; ${more} of them are not shown` : ""}.`),
      make("div", { class: "box tall", tabindex: "0", role: "region", "aria-label": "Claims about the bundle" },
        make("table", { id: "claims", class: "cards" },
          make("thead", {}, make("tr", {}, ...["It", "Claim", "About", "Detail"].map((h) => make("th", { scope: "col" }, h)))),
          make("tbody", {}, ...rows))),
      make("details", { id: "not-proven", open: true }, make("summary", {}, "What this does not prove"),
        make("ul", { class: "tight" }, ...report.notProven.slice(0, ROWS).map((s) => make("li", {}, s)),
          make("li", {}, `${NOT_JUDGED.join(", ")}: not judged here; use tally-verify`),
          make("li", {}, "that the rest of this page shows what stands in the bundle: that is below"),
          make("li", {}, "that the console which sent you this page and its scripts is honest: for that, take the bundle to a machine of yours and run tally-verify bundle FILE --policy FILE"))),
      ...(report.bundle ? [this.contents(report.bundle)] : []));
  }

  /** What stands in the bundle, for whoever wants to see it; made when it is unfolded. */
  contents({ sessions }) {
    const all = make("details", { id: "contents" }, make("summary", {}, "What stands in the bundle"));
    all.addEventListener("toggle", () => {
      for (const e of sessions.flatMap((s) => s.entries).slice(0, ENTRIES)) {
        all.append(make("h3", {}, e.subject), make("pre", { class: "raw", tabindex: "0" }, visible(e.text)), make("dl", { class: "facts" },
          ...e.fields.map((f) => make("div", {}, make("dt", {}, f.name ?? "a field"), make("dd", {}, f.withheld ? "withheld"
            : f.text === null ? `${f.value.length} bytes that are no text` : make("pre", { class: "raw", dir: "auto", tabindex: "0" }, visible(f.text)))))));
      }
    }, { once: true });
    return all;
  }
}

/** A recorded text, cut where it is long, in which what cannot be seen is seen. */
function visible(text) {
  const unseen = /[\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;
  const some = text.slice(0, CHARACTERS).replace(unseen, (c) => `⟨U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  return text.length > CHARACTERS ? `${some}… ${text.length - CHARACTERS} more` : some;
}

const section = document.querySelector("#proof");
if (section) new Panel(section);
