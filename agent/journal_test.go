package agent

import (
	"reflect"
	"testing"

	"ss/marker"
)

// TestJournalKeepsAll: a journal gives back every field of an entry, those too that are added to the core later.
func TestJournalKeepsAll(t *testing.T) {
	var e marker.Entry
	fill(t, reflect.ValueOf(&e).Elem())
	got, ok := toJournal(e).entry()
	if !ok || !reflect.DeepEqual(got, e) {
		t.Errorf("a journal of %+v gives %+v, %v", e, got, ok)
	}
}

// fill gives every field a value that is not its zero.
func fill(t *testing.T, v reflect.Value) {
	t.Helper()
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			fill(t, v.Field(i))
		}
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), 1, 1))
		fill(t, v.Index(0))
	case reflect.String:
		v.SetString("text")
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int64:
		v.SetInt(2)
	case reflect.Uint32, reflect.Uint64:
		v.SetUint(7)
	default:
		t.Fatalf("a field of kind %s", v.Kind())
	}
}
