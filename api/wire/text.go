package wire

import (
	"context"
	"fmt"
	"strings"
	"unicode/utf8"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// Speakable makes every string in a message UTF-8, which Protocol Buffers demand: texts quote names of files and arguments of programs, which may be any bytes.
// A byte that does not fit is written as \x and its two digits.
func Speakable(m proto.Message) {
	if m != nil {
		speakable(m.ProtoReflect())
	}
}

// SpeakableUnary makes what a server answers UTF-8.
func SpeakableUnary(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	answer, err := handle(ctx, req)
	if m, ok := answer.(proto.Message); ok && err == nil {
		Speakable(m)
	}
	return answer, err
}

// SpeakableStream makes what a server sends UTF-8.
func SpeakableStream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	return handle(srv, speakableStream{stream})
}

type speakableStream struct{ grpc.ServerStream }

func (s speakableStream) SendMsg(m any) error {
	if m, ok := m.(proto.Message); ok {
		Speakable(m)
	}
	return s.ServerStream.SendMsg(m)
}

func speakable(m protoreflect.Message) {
	m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		switch {
		case f.IsMap():
			if f.MapValue().Kind() == protoreflect.MessageKind {
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					speakable(v.Message())
					return true
				})
			}
		case f.IsList():
			speakableList(f, v.List())
		case f.Kind() == protoreflect.MessageKind:
			speakable(v.Message())
		case f.Kind() == protoreflect.StringKind && !utf8.ValidString(v.String()):
			m.Set(f, protoreflect.ValueOfString(spell(v.String())))
		}
		return true
	})
}

func speakableList(f protoreflect.FieldDescriptor, list protoreflect.List) {
	if f.Kind() != protoreflect.MessageKind && f.Kind() != protoreflect.StringKind {
		return
	}
	for i := range list.Len() {
		switch v := list.Get(i); {
		case f.Kind() == protoreflect.MessageKind:
			speakable(v.Message())
		case !utf8.ValidString(v.String()):
			list.Set(i, protoreflect.ValueOfString(spell(v.String())))
		}
	}
}

// spell writes bytes that are not UTF-8 as digits.
func spell(text string) string {
	var b strings.Builder
	for i, r := range text {
		if r != utf8.RuneError {
			b.WriteRune(r)
			continue
		}
		if _, n := utf8.DecodeRuneInString(text[i:]); n == 1 {
			fmt.Fprintf(&b, `\x%02x`, text[i])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}
