package adapters

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/sallyport/sallyport"
)

// Gin returns Gin middleware that enforces a rule. Handlers behind it find who calls
// with sallyport.From(c.Request.Context()).
func Gin(gate sallyport.Gate, rule sallyport.Rule) gin.HandlerFunc {
	through := gate.Require(rule)
	return func(c *gin.Context) {
		passed := false
		through(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			passed = true
			c.Request = r
			c.Next()
		})).ServeHTTP(c.Writer, c.Request)
		if !passed {
			c.Abort() // the gate has answered
		}
	}
}
