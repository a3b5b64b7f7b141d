package audit

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport/sallyport"
)

// Headers of a delivery.
const (
	// SignatureHeader is "t=TIME,v1=HEX": Unix seconds, and the HMAC-SHA256 under the
	// shared secret of those digits, a dot, and the body.
	SignatureHeader = "Sallyport-Signature"
	// DeliveryHeader names the seals that are delivered, FIRST-LAST: a delivery that
	// comes again has the same.
	DeliveryHeader = "Sallyport-Delivery"
)

// Bounds of the secret in bytes.
const minSecret, maxSecret = 32, 512

// CheckWebhook returns what is wrong with the address of a webhook.
func CheckWebhook(s string) error {
	bad := func(reason string) error {
		return sallyport.Mistake("audit.webhook", "", reason, "Write it as https://host/path; http:// only to this machine.")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "":
		return bad("it is not a URL")
	case u.User != nil:
		return bad("it holds a user name: deliveries are signed instead")
	case u.Fragment != "":
		return bad("it has a fragment")
	case u.Scheme == "https", u.Scheme == "http" && loopback(u.Hostname()):
		return nil
	}
	return bad("what is recorded would go over the network in clear")
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && a.IsLoopback()
}

// CheckWebhookSecret returns what is wrong with the secret of a webhook.
func CheckWebhookSecret(secret []byte) error {
	if len(secret) < minSecret || len(secret) > maxSecret {
		return sallyport.Mistake("audit.webhook_secret", "", fmt.Sprintf("it has %d bytes, and must have %d to %d", len(secret), minSecret, maxSecret), "Make one with: openssl rand -hex 32.")
	}
	return nil
}

type webhook struct {
	url    string
	secret []byte
	client *http.Client
}

func newWebhook(address string, secret []byte) *webhook {
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.MaxIdleConns, t.ResponseHeaderTimeout = 1, sinkTry
	return &webhook{address, secret, &http.Client{
		Transport: t,
		// Where events go, the configuration says and nobody else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// name tells webhooks apart in the database, where the address has no place: those of
// many services have a secret in them.
func (w *webhook) name() string {
	sum := sha256.Sum256([]byte(w.url))
	return hex.EncodeToString(sum[:16])
}

// bare returns an error without the address, for the log.
func bare(err error) error {
	var of *url.Error
	if errors.As(err, &of) {
		return of.Err
	}
	return err
}

func (w *webhook) deliver(ctx context.Context, b batch) error {
	body := b.lines()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url, bytes.NewReader(body))
	if err != nil {
		return bare(err)
	}
	req.Header.Set("Content-Type", "application/x-ndjson")
	req.Header.Set("User-Agent", "sallyport")
	req.Header.Set(SignatureHeader, sign(w.secret, time.Now().Unix(), body))
	req.Header.Set(DeliveryHeader, fmt.Sprintf("%d-%d", b.from, b.to))
	res, err := w.client.Do(req)
	if err != nil {
		return bare(err)
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, 64<<10)) // so that the connection is kept
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return fmt.Errorf("%w: the webhook answered %d", errNotAccepted, res.StatusCode)
	}
	return nil
}

func sign(secret []byte, at int64, body []byte) string {
	m := hmac.New(sha256.New, secret)
	t := strconv.FormatInt(at, 10)
	m.Write([]byte(t + "."))
	m.Write(body)
	return "t=" + t + ",v1=" + hex.EncodeToString(m.Sum(nil))
}

// VerifySignature is for who receives deliveries: it reports whether a body was
// signed with the secret, not longer ago than age. Five minutes are plenty.
func VerifySignature(secret []byte, header string, body []byte, now time.Time, age time.Duration) bool {
	t, _, _ := strings.Cut(strings.TrimPrefix(header, "t="), ",")
	at, err := strconv.ParseInt(t, 10, 64)
	if err != nil || now.Sub(time.Unix(at, 0)).Abs() > age {
		return false
	}
	return hmac.Equal([]byte(header), []byte(sign(secret, at, body)))
}
