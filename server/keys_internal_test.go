package server

import (
	"testing"
	"time"
)

func TestRotateTick(t *testing.T) {
	for every, want := range map[time.Duration]time.Duration{
		time.Minute: time.Minute, time.Hour: 6 * time.Minute, 5 * time.Hour: 30 * time.Minute,
		10 * time.Hour: time.Hour, 8784 * time.Hour: time.Hour,
	} {
		if got := rotateTick(every); got != want {
			t.Errorf("of %v: %v, want %v", every, got, want)
		}
	}
}
