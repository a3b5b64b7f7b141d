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

func (e *ConfigError) Error() string {
	return fmt.Sprintf("%s = %q: %s. %s", e.Key, e.Value, e.Reason, e.Fix)
}

// Mistake returns a ConfigError.
func Mistake(key, value, reason, fix string) *ConfigError {
	return &ConfigError{Key: key, Value: value, Reason: reason, Fix: fix}
}
