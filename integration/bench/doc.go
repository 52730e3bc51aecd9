// Bench measures what a snapshot and a restore cost beyond what CRIU alone costs, on real agents in a lab's hosts, and prints the
// ratios beside the bounds that the project sets itself. It is what `make bench` runs.
//
// The job of each measurement is two programs that stream numbered words to each other at full speed, one of them with the memory that the
// row is about, the other with 8 MiB. In every round a bare `criu dump --leave-running` of each, and a snapshot of both, are taken in
// turn, so that whatever else the machine does hits all alike. What is compared is what the programs themselves see: each has
// a loop that does nothing but look at the clock, and the longest time between two looks is its standstill; the receiver of the stream
// tells the longest time between two arrivals. CRIU's own numbers stand beside.
//
// It uses the programs as a person does and imports nothing of ours but the lab.
package main
