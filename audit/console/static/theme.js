// The colours that somebody chose, before anything is drawn. Without a choice the system's are taken.
(() => {
  try {
    const theme = localStorage.getItem("theme");
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
  } catch { /* no storage, no choice */ }
})();
