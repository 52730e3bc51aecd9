package wire

import (
	ssv1 "ss/api/proto/ss/v1"
	"ss/restoration"
)

// The wire's numbers are those of the .proto, whatever order the core's constants are in.
var (
	toRestoreType = map[restoration.MessageType]ssv1.RestoreMessageType{
		restoration.MsgCheck:   ssv1.RestoreMessageType_RESTORE_MESSAGE_TYPE_CHECK,
		restoration.MsgFetch:   ssv1.RestoreMessageType_RESTORE_MESSAGE_TYPE_FETCH,
		restoration.MsgFence:   ssv1.RestoreMessageType_RESTORE_MESSAGE_TYPE_FENCE,
		restoration.MsgRestore: ssv1.RestoreMessageType_RESTORE_MESSAGE_TYPE_RESTORE,
		restoration.MsgResume:  ssv1.RestoreMessageType_RESTORE_MESSAGE_TYPE_RESUME,
		restoration.MsgAbort:   ssv1.RestoreMessageType_RESTORE_MESSAGE_TYPE_ABORT,
		restoration.MsgFinish:  ssv1.RestoreMessageType_RESTORE_MESSAGE_TYPE_FINISH,
		restoration.MsgAsk:     ssv1.RestoreMessageType_RESTORE_MESSAGE_TYPE_ASK,
		restoration.MsgReport:  ssv1.RestoreMessageType_RESTORE_MESSAGE_TYPE_REPORT,
	}
	toRestorePhase = map[restoration.Phase]ssv1.RestorePhase{
		restoration.PhaseUnknown: ssv1.RestorePhase_RESTORE_PHASE_UNSPECIFIED,
		restoration.Planned:      ssv1.RestorePhase_RESTORE_PHASE_PLANNED,
		restoration.Checking:     ssv1.RestorePhase_RESTORE_PHASE_CHECKING,
		restoration.Checked:      ssv1.RestorePhase_RESTORE_PHASE_CHECKED,
		restoration.Fetching:     ssv1.RestorePhase_RESTORE_PHASE_FETCHING,
		restoration.Armed:        ssv1.RestorePhase_RESTORE_PHASE_ARMED,
		restoration.Fencing:      ssv1.RestorePhase_RESTORE_PHASE_FENCING,
		restoration.Fenced:       ssv1.RestorePhase_RESTORE_PHASE_FENCED,
		restoration.Restoring:    ssv1.RestorePhase_RESTORE_PHASE_RESTORING,
		restoration.Standing:     ssv1.RestorePhase_RESTORE_PHASE_STANDING,
		restoration.Resuming:     ssv1.RestorePhase_RESTORE_PHASE_RESUMING,
		restoration.Resumed:      ssv1.RestorePhase_RESTORE_PHASE_RESUMED,
		restoration.Whole:        ssv1.RestorePhase_RESTORE_PHASE_WHOLE,
		restoration.Stopping:     ssv1.RestorePhase_RESTORE_PHASE_STOPPING,
		restoration.Stopped:      ssv1.RestorePhase_RESTORE_PHASE_STOPPED,
		restoration.Left:         ssv1.RestorePhase_RESTORE_PHASE_LEFT,
	}
	fromRestoreType  = inverse(toRestoreType)
	fromRestorePhase = inverse(toRestorePhase)
)

func inverse[A, B comparable](m map[A]B) map[B]A {
	out := make(map[B]A, len(m))
	for a, b := range m {
		out[b] = a
	}
	return out
}

// FromRestoreMessage reads a message of a restore. A type or phase that is not known here is 0, which the core ignores.
func FromRestoreMessage(m *ssv1.RestoreMessage) restoration.Message {
	return restoration.Message{
		Type: fromRestoreType[m.GetType()], ID: restoration.ID(m.GetId()), From: restoration.HostID(m.GetFrom()), To: restoration.HostID(m.GetTo()),
		Ended: m.GetEnded(), Lost: m.GetLost(), Phase: fromRestorePhase[m.GetPhase()], Problems: int(m.GetProblems()), Reason: m.GetReason(),
	}
}

// ToRestoreMessage writes one.
func ToRestoreMessage(m restoration.Message) *ssv1.RestoreMessage {
	return &ssv1.RestoreMessage{
		Type: toRestoreType[m.Type], Id: string(m.ID), From: string(m.From), To: string(m.To),
		Ended: m.Ended, Lost: m.Lost, Phase: toRestorePhase[m.Phase], Problems: int32(m.Problems), Reason: m.Reason,
	}
}
