package sallyport

import "fmt"

// ConfigError is one mistake in a configuration. Those who check one report all
// mistakes at once, joined (errors.Join).
type ConfigError struct {
	Key    string // the field, or as in configuration files: "base_url"
	Value  string // never a secret
	Reason string
	Fix    string
}

// Error says key, value, reason and fix.
func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s = %q: %s. %s", e.Key, e.Value, e.Reason, e.Fix)
}

// Mistake returns a ConfigError.
func Mistake(key, value, reason, fix string) *ConfigError {
	return &ConfigError{Key: key, Value: value, Reason: reason, Fix: fix}
}

// Mistakes takes joined errors apart. One that is no ConfigError becomes one, with
// its text for a reason. It returns none for nil.
func Mistakes(err error) (all []*ConfigError) {
	switch e := err.(type) {
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		for _, e := range e.Unwrap() {
			all = append(all, Mistakes(e)...)
		}
		return all
	case *ConfigError:
		return []*ConfigError{e}
	}
	return []*ConfigError{Mistake("", "", err.Error(), "")}
}
