// Package modeltest has no code of its own: its test holds the commands of ssctl that remove something, over real agents, against a model of what is
// committed and what somebody has asked to remove.
//
// Its test may import everything; nothing imports it.
package modeltest
