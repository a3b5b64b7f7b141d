package adapters_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/go-chi/chi/v5"
	"github.com/labstack/echo/v4"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport/sallyport"
	"github.com/sallyport/sallyport/authtest"
	"github.com/sallyport/sallyport/examples/adapters"
)

var (
	readUsers = sallyport.Permission("read:users")
	mfa       = sallyport.MFA()
)

// Each router has the same routes: /things/{id} of readUsers, /strong of mfa, /open
// without a rule. Handlers say who calls, and which thing, and count that they ran.
var routers = map[string]func(gate sallyport.Gate, ran *atomic.Int32) http.Handler{
	"net/http": func(gate sallyport.Gate, ran *atomic.Int32) http.Handler {
		mux := http.NewServeMux()
		say := func(w http.ResponseWriter, r *http.Request) {
			ran.Add(1)
			_, _ = io.WriteString(w, sallyport.From(r.Context()).ID()+" "+r.PathValue("id"))
		}
		mux.Handle("GET /api/things/{id}", gate.Require(readUsers)(http.HandlerFunc(say)))
		mux.Handle("GET /api/strong", gate.Require(mfa)(http.HandlerFunc(say)))
		mux.HandleFunc("GET /api/open", say)
		return mux
	},
	"chi": func(gate sallyport.Gate, ran *atomic.Int32) http.Handler {
		r := chi.NewRouter()
		say := func(w http.ResponseWriter, r *http.Request) {
			ran.Add(1)
			_, _ = io.WriteString(w, sallyport.From(r.Context()).ID()+" "+chi.URLParam(r, "id"))
		}
		r.With(gate.Require(readUsers)).Get("/api/things/{id}", say)
		r.Group(func(r chi.Router) {
			r.Use(gate.Require(mfa))
			r.Get("/api/strong", say)
		})
		r.Get("/api/open", say)
		return r
	},
	"echo": func(gate sallyport.Gate, ran *atomic.Int32) http.Handler {
		e := echo.New()
		say := func(c echo.Context) error {
			ran.Add(1)
			return c.String(http.StatusOK, sallyport.From(c.Request().Context()).ID()+" "+c.Param("id"))
		}
		e.GET("/api/things/:id", say, echo.WrapMiddleware(gate.Require(readUsers)))
		e.Group("/api/strong", echo.WrapMiddleware(gate.Require(mfa))).GET("", say)
		e.GET("/api/open", say)
		return e
	},
	"gin": func(gate sallyport.Gate, ran *atomic.Int32) http.Handler {
		gin.SetMode(gin.TestMode)
		g := gin.New()
		say := func(c *gin.Context) {
			ran.Add(1)
			c.String(http.StatusOK, sallyport.From(c.Request.Context()).ID()+" "+c.Param("id"))
		}
		g.GET("/api/things/:id", adapters.Gin(gate, readUsers), say)
		g.Group("/api/strong", adapters.Gin(gate, mfa)).GET("", say)
		g.GET("/api/open", say)
		return g
	},
}

// The same rule decides alike behind every router, and refuses in the same words.
func TestRouters(t *testing.T) {
	for name, router := range routers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			sp := authtest.New(t)
			own := sallyport.NewMux(sp)
			own.Mount("/", sp.Routes())
			whole := http.NewServeMux()
			var ran atomic.Int32
			whole.Handle("/api/", router(sp, &ran))
			whole.Handle("/", own)
			sp.Serve(sp.Guard(whole))
			nobody := sp.Anonymous()
			plain := sp.SignIn("plain")
			reader := sp.SignIn("reader", authtest.Permissions("read:users"))
			scoped := sp.SignIn("scoped", authtest.Permissions("read:users"), authtest.Scopes())
			key := sp.SignIn("key", authtest.Permissions("read:users"), authtest.Scopes("read:users"), authtest.Via(sallyport.KindAPIKey))
			strong := sp.SignIn("strong", authtest.MFA())
			for _, c := range []struct {
				client *authtest.Client
				path   string
				status int
				body   string // or the code of a refusal
			}{
				{nobody, "/api/things/7", 401, "unauthenticated"},
				{plain, "/api/things/7", 403, "insufficient_permission"},
				{scoped, "/api/things/7", 403, "insufficient_scope"},
				{reader, "/api/things/7", 200, reader.ID + " 7"},
				{key, "/api/things/7", 200, key.ID + " 7"},
				{nobody, "/api/strong", 401, "unauthenticated"},
				{reader, "/api/strong", 401, "insufficient_user_authentication"},
				{strong, "/api/strong", 200, strong.ID + " "},
				{reader, "/api/open", 200, " "}, // no rule, nobody looked: nobody is known
				{nobody, "/api/open", 200, " "},
			} {
				before := ran.Load()
				r := c.client.Call("GET", c.path, nil)
				if n := ran.Load() - before; (n == 1) != (c.status == http.StatusOK) || n > 1 {
					t.Errorf("%s by %q: the handler ran %d times, status %d", c.path, c.client.Name, n, r.Status)
				}
				if got := r.Code(); r.Status != c.status || got != c.body && r.Body != c.body {
					t.Errorf("%s by %q: %d %s", c.path, c.client.Name, r.Status, r.Body)
				}
				if (r.Status == http.StatusUnauthorized) != (r.Header.Get("Www-Authenticate") != "") && r.Status != http.StatusForbidden {
					t.Errorf("%s by %q: %d with challenge %q", c.path, c.client.Name, r.Status, r.Header.Get("Www-Authenticate"))
				}
				if got := r.Header.Get("Content-Type"); r.Status != http.StatusOK && got != "application/problem+json" {
					t.Errorf("%s by %q: a refusal of type %q", c.path, c.client.Name, got)
				}
			}
			reader.Call("POST", "/logout", nil).Want(200, "")
			reader.Call("GET", "/api/things/7", nil).Want(401, "invalid_token")
		})
	}
}

// A handler that panics, and one that answers an error, go through the adapters as
// they are.
func TestErrorsBehindTheGate(t *testing.T) {
	t.Parallel()
	sp := authtest.New(t)
	gin.SetMode(gin.TestMode)
	g := gin.New()
	g.GET("/gin/panic", adapters.Gin(sp, sallyport.SignedIn()), func(*gin.Context) { panic("at the disco") })
	g.GET("/gin/teapot", adapters.Gin(sp, sallyport.SignedIn()), func(c *gin.Context) { c.AbortWithStatus(http.StatusTeapot) })
	e := echo.New()
	e.GET("/echo/teapot", func(echo.Context) error { return echo.NewHTTPError(http.StatusTeapot) }, echo.WrapMiddleware(sp.Require(sallyport.SignedIn())))
	whole := http.NewServeMux()
	whole.Handle("/gin/", g)
	whole.Handle("/echo/", e)
	sp.Serve(sp.Guard(whole))
	ada := sp.SignIn("ada")
	ada.Call("GET", "/gin/panic", nil).Want(500, "internal")
	ada.Call("GET", "/gin/teapot", nil).Want(http.StatusTeapot, "")
	ada.Call("GET", "/echo/teapot", nil).Want(http.StatusTeapot, "")
}

const (
	check = healthpb.Health_Check_FullMethodName
	watch = healthpb.Health_Watch_FullMethodName
	list  = healthpb.Health_List_FullMethodName
)

// checked is gRPC's own health service, which says who calls.
type checked struct {
	*health.Server
	seen chan string
}

func (h checked) Check(ctx context.Context, req *healthpb.HealthCheckRequest) (*healthpb.HealthCheckResponse, error) {
	h.seen <- sallyport.From(ctx).ID()
	return h.Server.Check(ctx, req)
}

func (h checked) Watch(req *healthpb.HealthCheckRequest, ss healthpb.Health_WatchServer) error {
	h.seen <- sallyport.From(ss.Context()).ID()
	return ss.Send(&healthpb.HealthCheckResponse{Status: healthpb.HealthCheckResponse_SERVING})
}

// Rules in front of gRPC methods, unary and streaming, over a real connection.
func TestGRPC(t *testing.T) {
	t.Parallel()
	sp := authtest.New(t)
	mux := sallyport.NewMux(sp)
	mux.Mount("/", sp.Routes())
	sp.Serve(sp.Guard(mux))
	guard := adapters.NewGRPC(sp, map[string]sallyport.Rule{check: readUsers, watch: mfa})
	s := grpc.NewServer(grpc.UnaryInterceptor(guard.Unary), grpc.StreamInterceptor(guard.Stream))
	h := checked{health.NewServer(), make(chan string, 1)}
	healthpb.RegisterHealthServer(s, h)
	if err := guard.Check(s); err == nil || err.Error() != list+" has no rule" {
		t.Errorf("Check: %v", err)
	}
	all := map[string]sallyport.Rule{check: readUsers, watch: mfa, list: sallyport.Public()}
	if err := adapters.NewGRPC(sp, all).Check(s); err != nil {
		t.Errorf("Check with all rules: %v", err)
	}
	all["/grpc.health.v1.Health/Chek"] = readUsers
	if err := adapters.NewGRPC(sp, all).Check(s); err == nil || !strings.Contains(err.Error(), "Chek, which is not served") {
		t.Errorf("Check with a rule of nothing: %v", err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = s.Serve(ln) }()
	t.Cleanup(s.Stop)
	conn, err := grpc.NewClient(ln.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	client := healthpb.NewHealthClient(conn)

	calls := map[string]func(ctx context.Context) error{
		check: func(ctx context.Context) error {
			_, err := client.Check(ctx, &healthpb.HealthCheckRequest{})
			return err
		},
		watch: func(ctx context.Context) error {
			stream, err := client.Watch(ctx, &healthpb.HealthCheckRequest{})
			if err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		list: func(ctx context.Context) error {
			_, err := client.List(ctx, &healthpb.HealthListRequest{})
			return err
		},
	}
	plain := sp.SignIn("plain")
	reader := sp.SignIn("reader", authtest.Permissions("read:users"))
	strong := sp.SignIn("strong", authtest.MFA())
	key := sp.SignIn("key", authtest.Permissions("read:users"), authtest.Scopes("read:users"), authtest.Via(sallyport.KindAPIKey))
	bearer := func(c *authtest.Client) []string { return []string{"authorization", "Bearer " + c.Token} }
	for _, c := range []struct {
		name, method string
		md           []string
		want         codes.Code
		reason, id   string
	}{
		{"nobody", check, nil, codes.Unauthenticated, "unauthenticated", ""},
		{"nobody", watch, nil, codes.Unauthenticated, "unauthenticated", ""},
		{"who may not", check, bearer(plain), codes.PermissionDenied, "insufficient_permission", ""},
		{"who may", check, bearer(reader), codes.OK, "", reader.ID},
		{"a key", check, []string{"x-api-key", key.Token}, codes.OK, "", key.ID},
		{"without a factor", watch, bearer(reader), codes.Unauthenticated, "insufficient_user_authentication", ""},
		{"with one", watch, bearer(strong), codes.OK, "", strong.ID},
		{"a token that is none", check, []string{"authorization", "Bearer x"}, codes.Unauthenticated, "invalid_token", ""},
		{"two tokens", check, append(bearer(reader), bearer(plain)...), codes.InvalidArgument, "several_credentials", ""},
		{"a token and a key", check, append(bearer(reader), "x-api-key", key.Token), codes.InvalidArgument, "several_credentials", ""},
		{"a cookie, which is not read", check, []string{"cookie", "__Host-sallyport=x"}, codes.Unauthenticated, "unauthenticated", ""},
		{"without a rule", list, bearer(reader), codes.PermissionDenied, "", ""},
	} {
		err := calls[c.method](metadata.AppendToOutgoingContext(t.Context(), c.md...))
		st := status.Convert(err)
		reason := ""
		for _, d := range st.Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok {
				reason = info.Reason
			}
		}
		if st.Code() != c.want || reason != c.reason {
			t.Errorf("%s: %s: %v %q, want %v %q: %s", c.method, c.name, st.Code(), reason, c.want, c.reason, st.Message())
		}
		id := ""
		select {
		case id = <-h.seen:
		default:
		}
		if id != c.id {
			t.Errorf("%s: %s: the handler saw %q, want %q", c.method, c.name, id, c.id)
		}
	}
	reader.Call("POST", "/logout", nil).Want(200, "")
	if err := calls[check](metadata.AppendToOutgoingContext(t.Context(), bearer(reader)...)); status.Code(err) != codes.Unauthenticated {
		t.Errorf("after the logout: %v", err)
	}
}
