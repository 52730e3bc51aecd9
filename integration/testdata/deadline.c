// Works until a time of day, in seconds since 1970, and ends with its work done.
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int main(int argc, char **argv)
{
	if (argc != 2)
		return 2;
	struct timespec end = { .tv_sec = atoll(argv[1]) };
	while (clock_nanosleep(CLOCK_REALTIME, TIMER_ABSTIME, &end, NULL))
		;
	puts("done");
	return 0;
}
