package wire

import (
	ssv1 "ss/api/proto/ss/v1"
	"ss/marker"
)

// The wire's numbers are those of the .proto, whatever order the core's constants are in.
var (
	toMarkerType = map[marker.MessageType]ssv1.MarkerMessageType{
		marker.MsgPrepare:     ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_PREPARE,
		marker.MsgStart:       ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_START,
		marker.MsgRenew:       ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_RENEW,
		marker.MsgAllRecorded: ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_ALL_RECORDED,
		marker.MsgCommit:      ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_COMMIT,
		marker.MsgAbort:       ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_ABORT,
		marker.MsgPrepared:    ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_PREPARED,
		marker.MsgRecorded:    ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_RECORDED,
		marker.MsgComplete:    ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_COMPLETE,
		marker.MsgFailed:      ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_FAILED,
		marker.MsgAborted:     ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_ABORTED,
		marker.MsgDone:        ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_DONE,
		marker.MsgMarker:      ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_MARKER,
		marker.MsgDumped:      ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_DUMPED,
		marker.MsgCaptured:    ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_CAPTURED,
		marker.MsgLacks:       ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_LACKS,
		marker.MsgHold:        ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_HOLD,
		marker.MsgCalm:        ssv1.MarkerMessageType_MARKER_MESSAGE_TYPE_CALM,
	}
	toMarkerCause = map[marker.Cause]ssv1.MarkerCause{
		marker.CauseNone:        ssv1.MarkerCause_MARKER_CAUSE_UNSPECIFIED,
		marker.CauseRefused:     ssv1.MarkerCause_MARKER_CAUSE_REFUSED,
		marker.CauseConflict:    ssv1.MarkerCause_MARKER_CAUSE_CONFLICT,
		marker.CauseStale:       ssv1.MarkerCause_MARKER_CAUSE_STALE,
		marker.CauseAction:      ssv1.MarkerCause_MARKER_CAUSE_ACTION,
		marker.CauseLease:       ssv1.MarkerCause_MARKER_CAUSE_LEASE,
		marker.CauseRestart:     ssv1.MarkerCause_MARKER_CAUSE_RESTART,
		marker.CausePeer:        ssv1.MarkerCause_MARKER_CAUSE_PEER,
		marker.CauseUnreachable: ssv1.MarkerCause_MARKER_CAUSE_UNREACHABLE,
		marker.CauseTimeout:     ssv1.MarkerCause_MARKER_CAUSE_TIMEOUT,
		marker.CauseInterrupt:   ssv1.MarkerCause_MARKER_CAUSE_INTERRUPT,
		marker.CauseCheck:       ssv1.MarkerCause_MARKER_CAUSE_CHECK,
		marker.CauseCommit:      ssv1.MarkerCause_MARKER_CAUSE_COMMIT,
		marker.CauseConfig:      ssv1.MarkerCause_MARKER_CAUSE_CONFIG,
		marker.CauseResolved:    ssv1.MarkerCause_MARKER_CAUSE_RESOLVED,
		marker.CauseOutside:     ssv1.MarkerCause_MARKER_CAUSE_OUTSIDE,
		marker.CauseUnread:      ssv1.MarkerCause_MARKER_CAUSE_UNREAD,
		marker.CauseJobLost:     ssv1.MarkerCause_MARKER_CAUSE_JOB_LOST,
	}
	toOutside = map[marker.OutsidePolicy]ssv1.OutsidePolicy{
		marker.OutsideRefuse: ssv1.OutsidePolicy_OUTSIDE_POLICY_UNSPECIFIED,
		marker.OutsideClosed: ssv1.OutsidePolicy_OUTSIDE_POLICY_CLOSE,
		marker.OutsideKept:   ssv1.OutsidePolicy_OUTSIDE_POLICY_KEEP,
	}

	fromMarkerType  = inverse(toMarkerType)
	fromMarkerCause = inverse(toMarkerCause)
	fromOutside     = inverse(toOutside)
)

// FromKey reads a key.
func FromKey(k *ssv1.Key) marker.Key {
	return marker.Key{Job: marker.JobID(k.GetJob()), Snapshot: marker.SnapshotID(k.GetSnapshot()), Epoch: marker.Epoch(k.GetEpoch())}
}

// ToKey writes one.
func ToKey(k marker.Key) *ssv1.Key {
	return &ssv1.Key{Job: string(k.Job), Snapshot: string(k.Snapshot), Epoch: uint64(k.Epoch)}
}

// FromMessage reads a marker message. A type that is not known here is 0, which the core ignores; so is a cause.
func FromMessage(m *ssv1.MarkerMessage) marker.Message {
	out := marker.Message{
		Type: fromMarkerType[m.GetType()], Key: FromKey(m.GetKey()), From: marker.HostID(m.GetFrom()), To: marker.HostID(m.GetTo()),
		Initiator: marker.HostID(m.GetInitiator()), Stop: m.GetStop(), Lease: marker.Millis(m.GetLeaseMs()), Settle: marker.Millis(m.GetSettleMs()),
		Channels: m.GetChannels(), Ends: FromEnds(m.GetEnds()), Reason: m.GetReason(), Cause: fromMarkerCause[m.GetCause()],
	}
	for _, p := range m.GetParticipants() {
		out.Participants = append(out.Participants, marker.HostID(p))
	}
	copy(out.Group[:], m.GetGroup()) // of any other length it names no list
	return out
}

// ToMessage writes one.
func ToMessage(m marker.Message) *ssv1.MarkerMessage {
	out := &ssv1.MarkerMessage{
		Type: toMarkerType[m.Type], Key: ToKey(m.Key), From: string(m.From), To: string(m.To),
		Initiator: string(m.Initiator), Stop: m.Stop, LeaseMs: int64(m.Lease), SettleMs: int64(m.Settle),
		Channels: m.Channels, Ends: ToEnds(m.Ends), Reason: m.Reason, Cause: toMarkerCause[m.Cause],
	}
	for _, p := range m.Participants {
		out.Participants = append(out.Participants, string(p))
	}
	if m.Group != (marker.Digest{}) {
		out.Group = m.Group[:]
	}
	return out
}
