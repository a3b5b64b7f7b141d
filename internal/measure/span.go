package measure

import "context"

// Begin begins a span named so, within the one that it is for, and returns what
// ends it.
type Begin func(name string) (end func())

type beginKey struct{}

// WithSpans returns a context of a request that is followed: what is done for it
// and takes time is told to begin.
func WithSpans(ctx context.Context, begin Begin) context.Context {
	return context.WithValue(ctx, beginKey{}, begin)
}

// Span marks something that takes time; what it returns ends it. Names are words
// of the code. It costs a look-up where nobody follows.
func Span(ctx context.Context, name string) (end func()) {
	if begin, ok := ctx.Value(beginKey{}).(Begin); ok {
		return begin(name)
	}
	return func() {}
}
