package rpc

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"ss/agent"
	"ss/agent/custody"
	"ss/api/identity"
	ssv1 "ss/api/proto/ss/v1"
	"ss/api/wire"
	"ss/store/images"
)

// may is the policy as a person would write it down. It is not made from Policy: a method that is missing here, or there, fails.
var may = map[string]string{
	"/ss.v1.Agent/Info":          "admin observer",
	"/ss.v1.Agent/Members":       "admin observer",
	"/ss.v1.Agent/Inventory":     "admin observer",
	"/ss.v1.Agent/Run":           "admin",
	"/ss.v1.Agent/Attach":        "admin",
	"/ss.v1.Agent/Kill":          "admin",
	"/ss.v1.Agent/Stand":         "admin",
	"/ss.v1.Agent/ForgetJob":     "admin",
	"/ss.v1.Agent/Logs":          "admin",
	"/ss.v1.Agent/Check":         "admin",
	"/ss.v1.Agent/Snapshot":      "admin",
	"/ss.v1.Agent/Restore":       "admin",
	"/ss.v1.Agent/RestoreWord":   "admin",
	"/ss.v1.Agent/RemoveImages":  "admin",
	"/ss.v1.Agent/ResolveImages": "admin",
	"/ss.v1.Agent/VerifyImages":  "admin",
	"/ss.v1.Agent/PutCut":        "admin",
	"/ss.v1.Agent/FetchImages":   "admin",
	"/ss.v1.Agent/PushImages":    "admin",
	"/ss.v1.Agent/Collect":       "admin",
	"/ss.v1.Agent/ExportImages":  "admin",
	"/ss.v1.Agent/ImportImages":  "admin",

	"/ss.v1.Peer/Deliver":      "agent",
	"/ss.v1.Peer/Exchange":     "agent",
	"/ss.v1.Peer/PutObject":    "agent",
	"/ss.v1.Peer/SettleImages": "agent",
	"/ss.v1.Peer/GetObject":    "agent",
	"/ss.v1.Peer/StatObject":   "agent",
	"/ss.v1.Peer/ListObjects":  "agent",
	"/ss.v1.Peer/AskRestore":   "agent",
	"/ss.v1.Peer/Receives":     "agent",
	"/ss.v1.Peer/Stand":        "agent",

	"/grpc.health.v1.Health/Check": "admin agent observer",
	"/grpc.health.v1.Health/Watch": "admin agent observer",
	"/grpc.health.v1.Health/List":  "", // not needed, so nobody's
}

// callTimeout bounds a call; a Watch that is allowed has no end of its own.
const callTimeout = 20 * time.Second

// Parts of a host on which nothing lives. What they embed is nil: a request that gets further than it should ends the test.
type (
	noCells struct{ agent.Cells }
	noGates struct{ agent.Gates }
	noCRIU  struct{ agent.Checkpointer }
)

func (noCells) Members(context.Context) ([]agent.Member, error) { return nil, nil }
func (noGates) Block(context.Context, []agent.Block) error      { return nil }
func (noGates) Mode() string                                    { return "drop" }
func (noCRIU) Check(context.Context) (string, error)            { return "", errors.New("no CRIU here") }

// hostAgent is an agent's server on loopback, and the authority of its cluster.
type hostAgent struct {
	agent     *agent.Agent
	addr      string
	server    *grpc.Server
	authority *identity.Authority
	images    *images.Store
	held      *custody.Holder
	quiet     agent.Quiet
}

func serveAgent(t *testing.T) *hostAgent {
	t.Helper()
	authority, err := identity.CreateAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &hostAgent{authority: authority}
	dir := t.TempDir()
	if h.images, err = images.Open(dir+"/images", images.Options{Pause: h.quiet.Wait}); err != nil {
		t.Fatal(err)
	}
	creds := issue(t, authority, identity.RoleAgent, "hostA")
	h.serve(t, creds, agent.Config{
		Host: "hostA", StateDir: dir, Cells: noCells{}, Gates: noGates{}, CRIU: noCRIU{},
		Quiet: &h.quiet, Log: slog.New(slog.DiscardHandler),
		Verifier: creds, Members: creds,
	})
	return h
}

// serve makes an agent of cfg and serves it until the test ends.
func (h *hostAgent) serve(t *testing.T, creds *identity.Credentials, cfg agent.Config) {
	t.Helper()
	peers := NewPeers(creds)
	t.Cleanup(peers.Close)
	held, err := custody.New(custody.Config{
		Host: "hostA", Store: h.images, Dir: cfg.StateDir + "/images", Staging: cfg.StateDir + "/staging", Scratch: cfg.StateDir + "/scratch",
		Peers: peers, Ends: cfg.CRIU, Verifier: creds, Log: cfg.Log,
	})
	if err != nil {
		t.Fatal(err)
	}
	cfg.Peers, cfg.Images, h.held = peers, held, held
	a, err := agent.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	h.agent = a
	h.server = NewServer(a, held, creds, "test")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h.addr = l.Addr().String()
	served := make(chan error, 1)
	go func() { served <- h.server.Serve(l) }()
	t.Cleanup(func() {
		if err := a.Close(context.Background()); err != nil {
			t.Error(err)
		}
		h.server.Stop()
		<-served
	})
}

func issue(t *testing.T, authority *identity.Authority, role identity.Role, name string) *identity.Credentials {
	t.Helper()
	b, err := authority.Issue(role, name)
	if err != nil {
		t.Fatal(err)
	}
	creds, err := b.Credentials()
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

func (h *hostAgent) dial(t *testing.T, creds credentials.TransportCredentials) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///"+h.addr, append(wire.WithProtocol("this test", "hostA"), grpc.WithTransportCredentials(creds))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// as dials with a certificate of the host's own cluster.
func (h *hostAgent) as(t *testing.T, role identity.Role, name string) *grpc.ClientConn {
	t.Helper()
	creds := issue(t, h.authority, role, name)
	return h.dial(t, credentials.NewTLS(creds.Client(identity.RoleAgent, "hostA")))
}

// methods lists what the server serves: "/SERVICE/METHOD".
func (h *hostAgent) methods() []string {
	var out []string
	for service, info := range h.server.GetServiceInfo() {
		for _, m := range info.Methods {
			out = append(out, "/"+service+"/"+m.Name)
		}
	}
	slices.Sort(out)
	return out
}

// request makes a message that method takes: an empty one, but for the host that a peer must name as its own.
func request(t *testing.T, method, host string) proto.Message {
	t.Helper()
	key := &ssv1.ImageKey{Job: "job", Snapshot: "snapshot", Host: host}
	switch method {
	case ssv1.Peer_Deliver_FullMethodName:
		return &ssv1.DeliverRequest{Message: &ssv1.MarkerMessage{From: host}}
	case ssv1.Peer_PutObject_FullMethodName:
		return &ssv1.ObjectFrame{Name: images.SetName(images.Key{Job: "job", Snapshot: "snapshot", Host: host})}
	case ssv1.Peer_SettleImages_FullMethodName:
		return &ssv1.SettleImagesRequest{Key: key}
	}
	name := strings.ReplaceAll(strings.TrimPrefix(method, "/"), "/", ".")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(name))
	if err != nil {
		t.Fatal(err)
	}
	typ, err := protoregistry.GlobalTypes.FindMessageByName(d.(protoreflect.MethodDescriptor).Input().FullName())
	if err != nil {
		t.Fatal(err)
	}
	return typ.New().Interface()
}

// raw takes an answer of any type.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error) { return proto.Marshal(v.(proto.Message)) }
func (raw) Unmarshal([]byte, any) error   { return nil }
func (raw) Name() string                  { return "proto" }

// call calls any method, streaming or not, with one message, and returns how the first answer came.
func call(t *testing.T, conn *grpc.ClientConn, method string, req proto.Message) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callTimeout)
	defer cancel()
	both := &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}
	s, err := conn.NewStream(ctx, both, method, grpc.ForceCodec(raw{}))
	if err != nil {
		return err
	}
	if err := s.SendMsg(req); err != nil && !errors.Is(err, io.EOF) { // then the reason comes with RecvMsg
		return err
	}
	if err := s.CloseSend(); err != nil {
		return err
	}
	if err := s.RecvMsg(nil); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

func denied(err error) bool {
	return status.Code(err) == codes.PermissionDenied || status.Code(err) == codes.Unauthenticated
}

// TestEveryMethodForEveryRole calls everything that the server serves in every role.
func TestEveryMethodForEveryRole(t *testing.T) {
	h := serveAgent(t)
	methods := h.methods()
	if want := slices.Sorted(maps.Keys(may)); !slices.Equal(methods, want) {
		t.Errorf("served are\n%v\nand this test knows\n%v:\nsay in it who may call what is new", methods, want)
	}
	for m := range Policy() {
		if !slices.Contains(methods, m) {
			t.Errorf("the policy names %s, which is not served", m)
		}
	}
	for _, role := range identity.Roles() {
		conn := h.as(t, role, "hostB")
		for _, m := range methods {
			t.Run(fmt.Sprintf("%s%s", role, m), func(t *testing.T) {
				err := call(t, conn, m, request(t, m, "hostB"))
				allowed := slices.Contains(strings.Fields(may[m]), string(role))
				switch {
				case allowed && (denied(err) || status.Code(err) == codes.DeadlineExceeded || status.Code(err) == codes.Unavailable):
					t.Errorf("it may, and got: %v", err)
				case !allowed && status.Code(err) != codes.PermissionDenied:
					t.Errorf("it may not, and got: %v", err)
				}
			})
		}
	}
}

// TestNobodyWithoutACertificateOfTheCluster is about those who get no connection, whatever they call.
func TestNobodyWithoutACertificateOfTheCluster(t *testing.T) {
	h := serveAgent(t)
	foreign, err := identity.CreateAuthority(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	// They trust whatever the agent shows: it is the agent who must refuse.
	stranger := func(cert ...tls.Certificate) credentials.TransportCredentials {
		return credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, Certificates: cert})
	}
	who := map[string]credentials.TransportCredentials{
		"plain text":     insecure.NewCredentials(),
		"no certificate": stranger(),
	}
	for _, role := range identity.Roles() {
		b, err := foreign.Issue(role, "hostB")
		if err != nil {
			t.Fatal(err)
		}
		cert, err := tls.X509KeyPair(b.CertPEM, b.KeyPEM)
		if err != nil {
			t.Fatal(err)
		}
		who[string(role)+" of another cluster"] = stranger(cert)
	}
	own, err := h.authority.Issue(identity.RoleAdmin, "admin")
	if err != nil {
		t.Fatal(err)
	}
	cert, err := tls.X509KeyPair(own.CertPEM, own.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	old := credentials.NewTLS(&tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{cert}, MaxVersion: tls.VersionTLS12})
	who["TLS 1.2"] = old
	for name, creds := range who {
		t.Run(name, func(t *testing.T) {
			conn := h.dial(t, creds)
			for _, m := range h.methods() {
				if err := call(t, conn, m, request(t, m, "hostB")); status.Code(err) != codes.Unavailable {
					t.Errorf("%s: %v", m, err)
				}
			}
		})
	}
}

// TestAnAgentSpeaksForItsOwnHostOnly has the agent of hostB claim to be another.
func TestAnAgentSpeaksForItsOwnHostOnly(t *testing.T) {
	h := serveAgent(t)
	conn := h.as(t, identity.RoleAgent, "hostB")
	for _, m := range []string{ssv1.Peer_Deliver_FullMethodName, ssv1.Peer_PutObject_FullMethodName, ssv1.Peer_SettleImages_FullMethodName} {
		// The empty name is the coordinator's.
		for _, host := range []string{"hostA", "hostC", "", "HOSTB", "hostB "} {
			err := call(t, conn, m, request(t, m, host))
			noName := m == ssv1.Peer_PutObject_FullMethodName && status.Code(err) == codes.InvalidArgument
			if status.Code(err) != codes.PermissionDenied && !noName {
				t.Errorf("%s for %q: %v", m, host, err)
			}
		}
		if err := call(t, conn, m, request(t, m, "hostB")); denied(err) {
			t.Errorf("%s for itself: %v", m, err)
		}
	}
	if sets, err := h.images.Sets(); err != nil || len(sets) > 0 {
		t.Errorf("image sets: %v, %v", sets, err)
	}
}

// planning sends a plan, and a list of participants if one is asked for. It hangs up, and returns how the line ended.
func planning(t *testing.T, client ssv1.AgentClient, plan *ssv1.RestorePlan, list []*ssv1.Participant) error {
	t.Helper()
	s, err := client.Restore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// What the server refuses at once is said by Recv; Send may fail with io.EOF then.
	_ = s.Send(&ssv1.RestoreRequest{Kind: &ssv1.RestoreRequest_Plan{Plan: plan}})
	_ = s.Send(&ssv1.RestoreRequest{Kind: &ssv1.RestoreRequest_Participants{Participants: &ssv1.ParticipantList{Participants: list}}})
	if err := s.CloseSend(); err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = s.Recv()
	}
	return err
}

// TestABadFirstMessage sends what no ssctl would: the agent must refuse it and live.
func TestABadFirstMessage(t *testing.T) {
	h := serveAgent(t)
	conn := h.as(t, identity.RoleAdmin, "admin")
	key := &ssv1.Key{Job: "job", Snapshot: "snapshot", Epoch: 1}
	here := []*ssv1.Participant{{Host: "hostA", Endpoint: h.addr}}
	there := []*ssv1.Participant{{Host: "hostB"}}
	knows := digestOf(here...)
	for name, bad := range map[string]struct {
		plan *ssv1.RestorePlan
		list []*ssv1.Participant
	}{
		"no plan":                 {nil, here},
		"no id":                   {&ssv1.RestorePlan{Key: key, ParticipantsDigest: knows, Targets: 1}, here},
		"an id that is a path":    {&ssv1.RestorePlan{Id: "../images", Key: key, ParticipantsDigest: knows, Targets: 1}, here},
		"no digest":               {&ssv1.RestorePlan{Id: "id", Key: key, Targets: 1}, here},
		"no participants":         {&ssv1.RestorePlan{Id: "id", Key: key, ParticipantsDigest: digestOf()}, nil},
		"another list":            {&ssv1.RestorePlan{Id: "id", Key: key, ParticipantsDigest: knows, Targets: 1}, there},
		"other participants":      {&ssv1.RestorePlan{Id: "id", Key: key, ParticipantsDigest: digestOf(there...), Targets: 1}, there},
		"no targets":              {&ssv1.RestorePlan{Id: "id", Key: key, ParticipantsDigest: knows}, here},
		"more targets than hosts": {&ssv1.RestorePlan{Id: "id", Key: key, ParticipantsDigest: knows, Targets: 2}, here},
		"a job that is a path":    {&ssv1.RestorePlan{Id: "id", Key: &ssv1.Key{Job: "../x", Snapshot: "s"}, ParticipantsDigest: knows, Targets: 1}, here},
		"a member that is a path": {&ssv1.RestorePlan{Id: "id", Key: key, ParticipantsDigest: knows, Targets: 1, Parts: []*ssv1.RestorePart{{Host: "hostA", Members: []*ssv1.Member{{Name: "../x"}}}}}, here},
	} {
		t.Run(name, func(t *testing.T) {
			if err := planning(t, ssv1.NewAgentClient(conn), bad.plan, bad.list); status.Code(err) != codes.InvalidArgument {
				t.Errorf("got %v", err)
			}
		})
	}
}
