// The overview is numbers, of which nothing is recorded, so it can be looked at anew by itself. It is, while nobody touches it.

let touched = Date.now();
for (const what of ["pointerdown", "keydown", "wheel"]) addEventListener(what, () => { touched = Date.now(); }, { passive: true });

setInterval(() => {
  const busy = Date.now() - touched < 25000 || document.hidden || document.querySelector("details[open]") || String(getSelection());
  if (!busy) location.reload();
}, 30000);
