package marker

// mistakes are planted mistakes. Only tests set one: they prove that the simulation would notice if
// the rule that it breaks were broken. The zero value, which is all that other code can make, breaks none.
type mistakes struct {
	openEarly           bool // M6: open the gates when the own dump is finished, whatever the peers do
	captureEarly        bool // M6: say that the connections are captured when the dump begins
	openUnconnected     bool // M6: likewise, but only those toward hosts without a channel
	announceEarly       bool // M3: say "recorded" when the record begins, before the gates are closed
	noFence             bool // M12: take every message for one of the current attempt
	abortWithoutOpening bool // M10: acknowledge an Abort and do nothing about it
	settleAfterSeal     bool // M5a: settle with a peer whose Marker comes when the dump has begun
	completeEarly       bool // M9: be complete while a gate still keeps something from a peer's record
	noLease             bool // M11: never give up by itself
	steal               bool // M12: let a Prepare of a higher epoch take a host that another attempt holds
	unbound             bool // M9: go on as if an entry had been written that could not be
	commitEarly         bool // M9, coordinator: commit when all participants but one are complete
}
