package testkit

import (
	"context"
	"os"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// ChromiumEnv names the environment variable with the path of the browser.
const ChromiumEnv = "SALLYPORT_TEST_CHROMIUM"

// Browser returns the context of a tab of a real browser with an empty profile,
// for at most as long as patience. It starts with the first action. Where there is
// no browser the test is skipped; under CI it fails.
func Browser(t *testing.T, patience time.Duration, more ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	path := os.Getenv(ChromiumEnv)
	if path == "" {
		path = "/usr/bin/chromium" // Debian's
		if _, err := os.Stat(path); err != nil {
			Missing(t, "there is no browser here: install chromium, or name one in %s", ChromiumEnv)
		}
	}
	allocator, stop := chromedp.NewExecAllocator(t.Context(), append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(profile(t)),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.WindowSize(1280, 1000),
	}, more...)...)
	t.Cleanup(stop)
	ctx, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(closeTab)
	ctx, cancel := context.WithTimeout(ctx, patience)
	t.Cleanup(cancel)
	// Waits until the browser has ended and writes no more into its profile.
	t.Cleanup(func() { _ = chromedp.Cancel(ctx) })
	return ctx
}

// profile makes an empty profile, removed when the test has ended. It is not in
// t.TempDir, which is removed once and fails the test on what is there a moment
// later: the browser's helper processes outlive it, and write while they end.
func profile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "sallyport-browser-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := os.RemoveAll(dir)
		for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); err = os.RemoveAll(dir) {
			time.Sleep(50 * time.Millisecond)
		}
		if err != nil {
			t.Logf("the browser's profile is left behind: %v", err)
		}
	})
	return dir
}
