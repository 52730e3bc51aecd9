/* An MPI program that checks every result: sums over all ranks, and blocks that go around in a ring. Rank 0 tells of progress. */
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { BLOCK = 20000 };

static void fail(int rank, long n, const char *what)
{
	printf("FAIL rank %d, round %ld: %s\n", rank, n, what);
	fflush(stdout);
	exit(1);
}

int main(int argc, char **argv)
{
	static long out[BLOCK], in[BLOCK];
	int rank, size;
	MPI_Init(&argc, &argv);
	MPI_Comm_rank(MPI_COMM_WORLD, &rank);
	MPI_Comm_size(MPI_COMM_WORLD, &size);
	for (long n = 1;; n++) {
		long mine = n * (rank + 1), sum = 0;
		MPI_Allreduce(&mine, &sum, 1, MPI_LONG, MPI_SUM, MPI_COMM_WORLD);
		if (sum != n * size * (size + 1) / 2)
			fail(rank, n, "wrong sum");
		int before = (rank + size - 1) % size;
		for (int i = 0; i < BLOCK; i++)
			out[i] = n * i + rank;
		MPI_Sendrecv(out, BLOCK, MPI_LONG, (rank + 1) % size, 7, in, BLOCK, MPI_LONG, before, 7, MPI_COMM_WORLD, MPI_STATUS_IGNORE);
		for (int i = 0; i < BLOCK; i++)
			if (in[i] != n * i + before)
				fail(rank, n, "wrong block");
		if (rank == 0 && n % 20 == 0) {
			printf("progress %ld\n", n);
			fflush(stdout);
		}
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
}
