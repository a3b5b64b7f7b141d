package live

import "testing"

func TestMemoIsBoundedAndKnowsNothingWithoutAStamp(t *testing.T) {
	var m Memo[int]
	m.Put(0, 1)
	if _, found := m.Get(0); found {
		t.Error("something is remembered under no stamp")
	}
	for i := range 3 * maxMemo {
		m.Put(uint64(i+1), i)
		if v, found := m.Get(uint64(i + 1)); !found || v != i {
			t.Fatalf("%d: %d %v", i, v, found)
		}
	}
	if len(m.m) > maxMemo {
		t.Errorf("%d are remembered", len(m.m))
	}
}
