// Command echo signs people in and protects three routes, with a role, a scope and a
// permission, by echo-jwt and casbin. bench/lines counts its lines, with model.conf and
// policy.csv.
//
//	cd bench/lines/echo && SECRET_KEY=$(openssl rand -hex 32) go run . 127.0.0.1:8000
package main

import (
	"log"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/casbin/casbin/v2"
	"github.com/golang-jwt/jwt/v5"
	echojwt "github.com/labstack/echo-jwt/v4"
	"github.com/labstack/echo/v4"
	"golang.org/x/crypto/bcrypt"
)

var secret = []byte(os.Getenv("SECRET_KEY"))

type user struct {
	hash   string
	scopes []string
}

const hash = "$2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW"

var users = map[string]user{
	"alice": {hash: hash},
	"bob":   {hash: hash, scopes: []string{"read:items"}},
	"carol": {hash: hash},
}

type claims struct {
	Scope string `json:"scope"`
	jwt.RegisteredClaims
}

func login(c echo.Context) error {
	name := c.FormValue("username")
	u, found := users[name]
	if !found || bcrypt.CompareHashAndPassword([]byte(u.hash), []byte(c.FormValue("password"))) != nil {
		c.Response().Header().Set("WWW-Authenticate", "Bearer")
		return echo.NewHTTPError(http.StatusUnauthorized, "incorrect username or password")
	}
	var scopes []string
	for _, s := range strings.Fields(c.FormValue("scope")) {
		if slices.Contains(u.scopes, s) {
			scopes = append(scopes, s)
		}
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims{
		Scope: strings.Join(scopes, " "),
		RegisteredClaims: jwt.RegisteredClaims{
			Subject:   name,
			ExpiresAt: jwt.NewNumericDate(time.Now().Add(30 * time.Minute)),
		},
	}).SignedString(secret)
	if err != nil {
		return err
	}
	return c.JSON(http.StatusOK, echo.Map{"access_token": token, "token_type": "bearer"})
}

func current(c echo.Context) *claims {
	return c.Get("user").(*jwt.Token).Claims.(*claims)
}

func requireScope(scope string) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			if !slices.Contains(strings.Fields(current(c).Scope), scope) {
				return echo.ErrForbidden
			}
			return next(c)
		}
	}
}

func enforce(e *casbin.Enforcer) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			allowed, err := e.Enforce(current(c).Subject, c.Path(), c.Request().Method)
			if err != nil {
				return err
			}
			if !allowed {
				return echo.ErrForbidden
			}
			return next(c)
		}
	}
}

func hello(c echo.Context) error {
	return c.JSON(http.StatusOK, echo.Map{"hello": current(c).Subject})
}

func main() {
	if len(secret) < 32 {
		log.Fatal("SECRET_KEY is not set, or too short")
	}
	enforcer, err := casbin.NewEnforcer("model.conf", "policy.csv")
	if err != nil {
		log.Fatal(err)
	}
	e := echo.New()
	e.POST("/token", login)
	signedIn := echojwt.WithConfig(echojwt.Config{
		SigningKey:    secret,
		NewClaimsFunc: func(echo.Context) jwt.Claims { return new(claims) },
		ErrorHandler: func(c echo.Context, err error) error {
			c.Response().Header().Set("WWW-Authenticate", "Bearer")
			return echo.ErrUnauthorized
		},
	})
	e.GET("/admin", hello, signedIn, enforce(enforcer))
	e.GET("/items", hello, signedIn, requireScope("read:items"))
	e.POST("/items", hello, signedIn, enforce(enforcer))
	log.Fatal(e.Start(os.Args[1]))
}
