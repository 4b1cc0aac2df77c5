// Package peers holds the tests of the console that need a real browser: a headless Chromium, driven by chromedp, before a real
// demo. It is a module of its own, so that nobody who uses the console depends on that, and it exports nothing.
//
// The browser is what the variable CHROMIUM names, or chromium, chromium-browser or google-chrome of the PATH. `make browser` installs
// one where that can be done. Without any the tests are skipped, but not where CI=true. With SCREENSHOTS=DIR what the tests see is
// written there as PNG files, for people to look at.
package peers
