// The player of an answer: it moves through the rows of the timeline, each of which states when its event came. It finds
//
//	<section id="timeline">
//	  <div id="player"></div>            its place, empty
//	  <table id="events"><tbody>
//	    <tr id="e17" data-at="12345">    an event: microseconds since the answer began, -1 where that is not on record
//	      <td class="says">…</td>        the words that it adds
//
// and makes its buttons and the text that grows. Rows with a badge (masked, ended, faulty, after a long gap) can be jumped to.
//
// An event is due at its own distance from where the playing began, never from the event before it: so nothing adds up. How late each was
// shown is measured, and the worst of it told.

const SPEEDS = [0.25, 0.5, 1, 2, 4, 8, 32];
const IDLE = 1000; // milliseconds that a gap is played for at most, where idle time is left out

/** When each event is shown, in milliseconds of playing at speed 1. Times never go back; a time that is not known is that of the one before. */
export function schedule(micros, compress) {
  let before = 0, due = 0;
  return micros.map((at) => {
    const now = Math.max(before, at / 1000);
    const gap = now - before;
    due += compress ? Math.min(gap, IDLE) : gap;
    before = now;
    return due;
  });
}

/** A player of events. It calls show(n) whenever n events have been shown, and changed() whenever it begins or stops to play. */
export class Player {
  constructor(micros, show, changed = () => {}) {
    Object.assign(this, { micros, show, changed, at: 0, speed: 1, compress: false, timer: null, late: [] });
    this.due = schedule(micros, false);
  }

  get playing() {
    return this.timer !== null;
  }

  /** Milliseconds, at speed 1, of the place where it is. */
  get position() {
    if (this.playing) return (performance.now() - this.began) * this.speed;
    return this.at === 0 ? 0 : this.due[this.at - 1];
  }

  play() {
    if (this.playing || this.micros.length === 0) return;
    if (this.at === this.micros.length) this.go(0);
    this.late = [];
    this.anchor(this.at === 0 ? 0 : this.due[this.at - 1]);
    this.timer = 0;
    this.changed();
    this.tick();
  }

  pause() {
    if (!this.playing) return;
    clearTimeout(this.timer);
    this.timer = null;
    this.changed();
  }

  anchor(position) {
    this.began = performance.now() - position / this.speed;
  }

  tick() {
    let n = this.at;
    const now = performance.now();
    while (n < this.due.length && this.began + this.due[n] / this.speed <= now) {
      this.late.push(now - this.began - this.due[n] / this.speed);
      n++;
    }
    if (n !== this.at) {
      this.at = n;
      this.show(n);
    }
    if (n === this.due.length) {
      this.pause();
      return;
    }
    this.timer = setTimeout(() => this.tick(), Math.max(0, this.began + this.due[n] / this.speed - performance.now()));
  }

  /** Shows the first n events, and goes on playing from there if it was. */
  go(n) {
    this.at = Math.min(Math.max(n, 0), this.micros.length);
    if (this.playing) this.anchor(this.at === 0 ? 0 : this.due[this.at - 1]);
    this.show(this.at);
    if (this.playing) {
      clearTimeout(this.timer);
      this.tick();
    }
  }

  set(speed, compress) {
    const was = this.position;
    const share = this.playing && this.at < this.due.length ? was - (this.due[this.at - 1] ?? 0) : 0; // of the gap that is being waited out
    this.speed = speed;
    if (compress !== this.compress) {
      this.compress = compress;
      this.due = schedule(this.micros, compress);
    }
    if (!this.playing) return;
    this.anchor((this.due[this.at - 1] ?? 0) + Math.min(share, this.due[this.at] - (this.due[this.at - 1] ?? 0)));
    clearTimeout(this.timer);
    this.tick();
  }
}

function make(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) e.setAttribute(key, value);
  e.append(...children);
  return e;
}

function start(section) {
  const place = section.querySelector("#player");
  const rows = [...section.querySelectorAll("#events tbody tr[data-at]")];
  if (!place || rows.length === 0) return;
  const micros = rows.map((r) => Number(r.dataset.at));
  if (micros.every((at) => at < 0)) return; // when anything came is not on record
  const texts = rows.map((r) => r.querySelector(".says")?.textContent ?? "");
  const marks = rows.map((r) => r.querySelector(".badge") !== null);
  const calm = matchMedia("(prefers-reduced-motion: reduce)");

  const button = (id, text, keys, does) => {
    const b = make("button", { type: "button", id, "aria-keyshortcuts": keys, title: `${text} (${keys})` }, text);
    b.addEventListener("click", does);
    return b;
  };
  const play = button("play", "Play", "Space", () => (player.playing ? player.pause() : player.play()));
  const speed = make("select", { id: "speed" }, ...SPEEDS.map((s) => make("option", { value: s }, `×${s}`)));
  speed.value = "1";
  const idle = make("input", { type: "checkbox", id: "idle" });
  const seek = make("input", { type: "range", id: "seek", min: "0", max: String(rows.length), value: "0", step: "1", "aria-label": "Events shown" });
  const clock = make("output", { id: "clock" });
  const late = make("output", { id: "late" });
  const text = make("pre", { id: "playing", class: "raw", dir: "auto", tabindex: "0", "aria-label": "The answer as it came" });
  const mark = (step) => {
    for (let n = player.at + step; n > 0 && n <= rows.length; n += step) {
      if (marks[n - 1]) return go(n);
    }
  };
  const go = (n) => {
    player.pause();
    player.go(n);
  };

  let shown = 0; // events whose words stand in the text
  const show = (n) => {
    if (n < shown) text.textContent = texts.slice(0, n).join("");
    else text.append(texts.slice(shown, n).join(""));
    for (let i = Math.min(n, shown); i < Math.max(n, shown); i++) rows[i].classList.toggle("played", i < n);
    rows[shown - 1]?.removeAttribute("aria-current");
    rows[n - 1]?.setAttribute("aria-current", "step");
    shown = n;
    seek.value = String(n);
    clock.textContent = `event ${n} of ${rows.length}, ${(Math.max(0, micros[n - 1] ?? 0) / 1000).toFixed(1)} ms`;
    if (!calm.matches) text.scrollTop = text.scrollHeight; // who asked for less motion follows by himself
  };
  const changed = () => {
    play.textContent = player.playing ? "Pause" : "Play";
    section.classList.toggle("playing", player.playing);
    if (player.playing || player.late.length === 0) return;
    const worst = Math.max(...player.late);
    place.dataset.late = worst.toFixed(2);
    place.dataset.events = String(player.late.length);
    late.textContent = `· ${player.late.length} events played, the latest of them ${worst.toFixed(1)} ms after its time`;
  };
  const player = new Player(micros, show, changed);
  const set = () => player.set(Number(speed.value), idle.checked);
  speed.addEventListener("change", set);
  idle.addEventListener("change", set);
  seek.addEventListener("input", () => go(Number(seek.value)));

  place.setAttribute("role", "group");
  place.setAttribute("aria-label", "Player");
  place.append(
    make("div", { class: "row buttons" },
      button("first", "To the beginning", "Home", () => go(0)), button("back", "Step back", "ArrowLeft", () => go(player.at - 1)), play,
      button("step", "Step", "ArrowRight", () => go(player.at + 1)), button("last", "To the end", "End", () => go(rows.length)),
      button("mark-back", "Mark before", "[", () => mark(-1)), button("mark", "Next mark", "]", () => mark(1)),
      make("label", { class: "check", for: "speed" }, "Speed ", speed), make("label", { class: "check", for: "idle" }, idle, ` leave out idle time over ${IDLE / 1000} s`)),
    seek, make("p", { class: "soft" }, clock, " ", late), text);
  if (!marks.includes(true)) place.querySelector("#mark").disabled = place.querySelector("#mark-back").disabled = true;
  const keys = {
    " ": () => (player.playing ? player.pause() : player.play()),
    ArrowLeft: () => go(player.at - 1), ArrowRight: () => go(player.at + 1), Home: () => go(0), End: () => go(rows.length),
    "[": () => mark(-1), "]": () => mark(1),
  };
  section.addEventListener("keydown", (e) => {
    // What has keys of its own keeps them.
    if (e.altKey || e.ctrlKey || e.metaKey || !keys[e.key] || e.target.matches("input, select, textarea, a, summary, .box, pre")) return;
    if (e.key === " " && e.target.matches("button")) return;
    e.preventDefault();
    keys[e.key]();
  });
  for (const row of rows) {
    row.addEventListener("dblclick", () => go(rows.indexOf(row) + 1));
  }
  show(rows.length); // what was is whole until somebody plays it
  player.at = rows.length;
  text.scrollTop = 0;
}

const section = globalThis.document?.querySelector("#timeline");
if (section) start(section);
