package restoration

// mistakes are mistakes that tests plant, to show that the simulation finds them. In production all are false.
type mistakes struct {
	unknownIsFailed   bool // Standing: stop when the deciding host does not answer
	abortOnLostAnswer bool // coordinator: a deciding host that is lost after the resume was sent has failed
	lostSilently      bool // a host that has lost its part forgets the restore without telling the deciding host
	noBind            bool // the deciding host answers a question and goes on as if nobody had asked
	fenceAll          bool // coordinator: tell all hosts to fence at once
	resumeEarly       bool // coordinator: have the resume decided when all targets but one stand
	finishEarly       bool // coordinator: finish when all targets but one run
	interruptResume   bool // coordinator: an interrupt aborts a resume under way
	unbound           bool // go on as if an entry had been written that could not be
	leaveArmed        bool // a host that loses its line before it has ended anything leaves without asking
}
