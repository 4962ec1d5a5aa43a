// Runs before the first paint, hence not a module: a chosen theme must not flash in the other one's colours.
(() => {
  try {
    const theme = localStorage.getItem('unspool.theme');
    if (theme === 'dark' || theme === 'light') document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be forbidden: then the system's theme it is.
  }
})();
